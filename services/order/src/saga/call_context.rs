//! On whose behalf steps call.

use std::time::Duration;

use chassis::{Facility, auth::ServiceTokens};
use mesh::Context;

use super::Engine;
use crate::error::Error;

/// On whose behalf, and until when.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Somebody waits: calls carry the token and end with the deadline.
    Request(Context),
    /// Nobody does: calls carry the service's own token.
    Background,
}

/// Calls that this service makes in its own name. Cheap to clone.
#[derive(Clone)]
pub struct ServiceCredentials {
    pub tokens: ServiceTokens,
    /// How long a call may take.
    pub timeout: Duration,
}

impl ServiceCredentials {
    /// What a call for a facility is made with.
    ///
    /// # Errors
    /// When no token can be signed.
    pub fn context(&self, facility: &Facility) -> Result<Context, Error> {
        let bearer = self.tokens.bearer(facility)?;
        Ok(Context::new().with_bearer(bearer).with_timeout(self.timeout))
    }
}

impl Engine {
    /// What a call of the service's own is made with.
    ///
    /// # Errors
    /// When no token can be signed.
    pub fn service_context(&self, facility: &Facility) -> Result<Context, Error> {
        self.parts().credentials.context(facility)
    }

    pub(super) fn call_context(&self, origin: &Origin, facility: &Facility) -> Result<Context, Error> {
        match origin {
            Origin::Request(context) => Ok(context.clone()),
            Origin::Background => self.service_context(facility),
        }
    }
}
