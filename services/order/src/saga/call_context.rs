//! The contexts of the calls that sagas make: the caller's or the service's own.

use std::time::Duration;

use chassis::{Facility, auth::ServiceTokens};
use mesh::Context;

use super::Engine;
use crate::error::Error;

/// Where a saga is driven, which determines the token and the deadline of its calls.
#[derive(Clone, Debug)]
pub enum Origin {
    /// In a request: calls use the caller's token and deadline.
    Request(Context),
    /// In the background: calls use the service's own token.
    Background,
}

/// What the service needs for calls of its own. Cheap to clone.
#[derive(Clone)]
pub struct ServiceCredentials {
    pub tokens: ServiceTokens,
    /// The timeout of a call.
    pub timeout: Duration,
}

impl ServiceCredentials {
    /// The context of a call for a facility.
    ///
    /// # Errors
    /// When the token cannot be signed.
    pub fn context(&self, facility: &Facility) -> Result<Context, Error> {
        let bearer = self.tokens.bearer(facility)?;
        Ok(Context::new().with_bearer(bearer).with_timeout(self.timeout))
    }
}

impl Engine {
    /// The context of a call with the service's own token.
    ///
    /// # Errors
    /// When the token cannot be signed.
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
