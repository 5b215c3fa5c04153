//! Authentication: the identity that a verified token proves, and the tokens of a service's own work.

mod identity;
mod role;
mod service_tokens;

pub use identity::Identity;
#[cfg(test)]
pub(crate) use identity::complete;
pub use role::{Role, RoleSet};
pub use service_tokens::ServiceTokens;
use weft_server::auth::TenantClaim;
pub use weft_server::auth::{Settings, SigningError, TokenError, Verifier, key_id};

/// The claim with the facility.
const FACILITY_CLAIM: &str = "facility";

/// The verifier of tokens for the service `service`. They name a facility, and their callers have an [`Identity`].
///
/// # Errors
/// When the settings cannot be used.
pub(crate) fn verifier(settings: &Settings, service: &str) -> anyhow::Result<Verifier> {
    let verifier = Verifier::new(settings, service)?;
    Ok(verifier
        .with_tenants(TenantClaim::Required(FACILITY_CLAIM))
        .with_completion(identity::complete))
}
