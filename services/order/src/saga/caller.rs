//! On whose behalf steps call.

use std::time::Duration;

use chassis::{Facility, auth::ServiceTokens};
use mesh::Context;

use super::Engine;
use crate::error::Error;

/// On whose behalf, and until when.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Somebody waits: calls carry the token and end with the deadline.
    Waiting(Context),
    /// Nobody does: calls carry the service's own token.
    Nobody,
}

/// Calls that this service makes in its own name. Cheap to clone.
#[derive(Clone)]
pub struct ServiceCaller {
    pub tokens: ServiceTokens,
    /// How long a call may take.
    pub timeout: Duration,
}

impl ServiceCaller {
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
    pub fn own_context(&self, facility: &Facility) -> Result<Context, Error> {
        self.parts().caller.context(facility)
    }

    pub(super) fn context(&self, caller: &Caller, facility: &Facility) -> Result<Context, Error> {
        match caller {
            Caller::Waiting(context) => Ok(context.clone()),
            Caller::Nobody => self.own_context(facility),
        }
    }
}
