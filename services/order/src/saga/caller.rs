//! On whose behalf steps call.

use chassis::Facility;
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

impl Engine {
    /// What a call of the service's own is made with.
    ///
    /// # Errors
    /// When no token can be signed.
    pub fn own_context(&self, facility: &Facility) -> Result<Context, Error> {
        let bearer = self.parts().tokens.bearer(facility)?;
        Ok(Context::new()
            .with_bearer(bearer)
            .with_timeout(self.parts().settings.step_timeout()))
    }

    pub(super) fn context(&self, caller: &Caller, facility: &Facility) -> Result<Context, Error> {
        match caller {
            Caller::Waiting(context) => Ok(context.clone()),
            Caller::Nobody => self.own_context(facility),
        }
    }
}
