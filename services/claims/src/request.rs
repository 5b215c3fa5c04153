//! A mutating request, independent of its method.

use chassis::{Facility, idempotency::Key, status};
use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

/// The facility and the idempotency key of a mutating request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The caller's facility.
    pub facility: &'a Facility,
    /// The idempotency key: a repeated request has the same one.
    pub key: &'a Key,
}

/// The deadline of the current call; `None` outside of a call or without a deadline.
pub fn deadline() -> Option<Instant> {
    let remaining = mesh::Context::current()?.remaining()?;
    Some(Instant::now() + remaining)
}

/// Parses a UUID in a request field.
///
/// # Errors
/// INVALID_ARGUMENT that names the field.
pub(crate) fn parse_uuid(field: &str, text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| status::invalid_field(field, "must be a UUID"))
}
