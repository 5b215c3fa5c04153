//! The state of all services after a step, and its amounts.

use money::{Currency, Money};
use proto::{
    claims::v1::Claim,
    order::v1::Order,
    payment::v1::{GetTrialBalanceResponse, LedgerAccount, Payment},
};

/// The currency of the demonstration.
const CURRENCY: Currency = Currency::AED;

/// The state of all services.
pub(super) struct Snapshot {
    pub(super) order: Order,
    pub(super) payment: Payment,
    pub(super) claim: Claim,
    pub(super) ledger: GetTrialBalanceResponse,
}

pub(super) fn balance(ledger: &GetTrialBalanceResponse, account: LedgerAccount) -> String {
    let found = ledger
        .accounts
        .iter()
        .find(|balance| balance.account() == account);
    amount(found.and_then(|balance| balance.balance.as_ref()))
}

/// `12.50`; zero for an amount that is absent.
pub(super) fn amount(wire: Option<&proto::google::r#type::Money>) -> String {
    fils(minor(wire))
}

/// Minor units; zero for an amount that is absent.
pub(super) fn minor(wire: Option<&proto::google::r#type::Money>) -> i64 {
    wire.and_then(|wire| Money::try_from(wire).ok())
        .map_or(0, Money::minor)
}

/// `12.50`, of an amount in minor units.
pub(super) fn fils(minor: i64) -> String {
    Money::new(minor, CURRENCY).to_string()
}
