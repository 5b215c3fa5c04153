//! Tokens for work without a caller: resumed sagas, timers.

use std::sync::Arc;

use weft_server::auth;

use super::{FACILITY_CLAIM, Settings, SigningError};
use crate::Facility;

/// Signs the service's own tokens and caches one per facility. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServiceTokens(auth::ServiceTokens);

impl ServiceTokens {
    /// Tokens of the service `service`.
    ///
    /// # Errors
    /// When there is no key, or it cannot be used.
    pub fn new(service: &str, settings: &Settings) -> Result<ServiceTokens, SigningError> {
        auth::ServiceTokens::new(service, Some(FACILITY_CLAIM), settings).map(ServiceTokens)
    }

    /// A token for background work of `facility`, valid for at least another minute.
    ///
    /// # Errors
    /// When signing fails.
    pub fn bearer(&self, facility: &Facility) -> Result<Arc<str>, SigningError> {
        self.0.bearer(Some(facility.as_str()))
    }
}
