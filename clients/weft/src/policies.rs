//! The call policies of the contract.

use std::{sync::OnceLock, time::Duration};

use mesh::Policies;

/// The call policies of all methods in the contract.
pub(crate) fn policies() -> Result<Policies, mesh::Error> {
    Ok(Policies::from_annotated_descriptors(proto::DESCRIPTORS)?)
}

/// The timeout of a method in the contract. `method` is `order.v1.OrderService/GetOrder`, for example.
pub(crate) fn contract_timeout(method: &str) -> Option<Duration> {
    static POLICIES: OnceLock<Option<Policies>> = OnceLock::new();
    let policies = POLICIES.get_or_init(|| policies().ok()).as_ref()?;
    Some(policies.method(&format!("/{method}"))?.timeout)
}
