//! The idempotency key of a request.

use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Status;
use uuid::Uuid;

use crate::status;

/// Identifies a request within a facility: its method, its `request_id`, and a fingerprint of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub(super) method: String,
    pub(super) request_id: Uuid,
    pub(super) hash: [u8; 32],
}

impl Key {
    /// The key of `message`, sent to `method` (`package.Service/Method`). The fingerprint is the SHA-256 of the
    /// message encoded again, so unknown fields and the order of fields do not matter.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when `request_id` is not a UUID.
    pub fn new(method: &str, request_id: &str, message: &impl Message) -> Result<Key, Status> {
        let request_id =
            Uuid::parse_str(request_id).map_err(|_| status::invalid_field("request_id", "must be a UUID"))?;
        let hash = Sha256::digest(message.encode_to_vec()).into();
        Ok(Key {
            method: method.trim_start_matches('/').to_owned(),
            request_id,
            hash,
        })
    }

    /// The request's id.
    pub fn request_id(&self) -> Uuid {
        self.request_id
    }

    /// The method: `package.Service/Method`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The fingerprint of the request's content, to be stored with what it creates.
    pub fn hash(&self) -> &[u8] {
        &self.hash
    }
}
