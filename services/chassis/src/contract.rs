//! The contract of all services: its descriptors, and the validation of its messages.

use std::sync::LazyLock;

use weft_server::{Contract, Violations};

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let contract = Contract::new(proto::DESCRIPTORS);
    contract
        .expect("the contract's build has encoded its own descriptors")
        .limit_fields()
});

/// The contract of all services.
pub(crate) fn contract() -> &'static Contract {
    &CONTRACT
}

/// The violations of an encoded message: of its contract's rules, and of the limits that apply to every field. The
/// server validates every request by itself; this is for messages from elsewhere.
///
/// # Errors
/// When the contract has no message of this name, or the bytes cannot be decoded.
pub fn violations(name: &str, bytes: &[u8]) -> Result<Violations, String> {
    CONTRACT.violations(name, bytes)
}
