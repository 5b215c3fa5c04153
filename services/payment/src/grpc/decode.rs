//! Decodes requests.

use chassis::{Identity, idempotency::Key, status};
use mesh::Context;
use money::Money;
use prost::Message;
use proto::{google::r#type::Money as WireMoney, payment::v1 as wire};
use tonic::{Request, Status};
use uuid::Uuid;

use super::encode;
use crate::{
    ledger::Account,
    payment::{Purpose, State},
    request,
};

/// The facility, idempotency key and deadline of a request of `method`.
pub(super) fn request<M: Message>(
    method: &str,
    request: &Request<M>,
    request_id: &str,
) -> Result<request::Request, Status> {
    let method = format!("payment.v1.PaymentService/{method}");
    Ok(request::Request {
        facility: Identity::from_request(request)?.facility,
        key: Key::new(&method, request_id, request.get_ref())?,
        deadline: request.extensions().get::<Context>().and_then(Context::deadline),
    })
}

pub(super) fn id(field: &str, text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| status::invalid_field(field, "must be a UUID"))
}

pub(super) fn optional_id(field: &str, text: &str) -> Result<Option<Uuid>, Status> {
    if text.is_empty() {
        Ok(None)
    } else {
        id(field, text).map(Some)
    }
}

pub(super) fn purpose(wire: i32) -> Result<Purpose, Status> {
    let purpose = match wire::PaymentPurpose::try_from(wire) {
        Ok(wire::PaymentPurpose::Share) => Some(Purpose::Share),
        Ok(wire::PaymentPurpose::Balance) => Some(Purpose::Balance),
        Ok(wire::PaymentPurpose::Unspecified) | Err(_) => None,
    };
    purpose.ok_or_else(|| status::invalid_field("purpose", "must be SHARE or BALANCE"))
}

/// The amount, if there is one. Its currency must be in ISO 4217, and it must be a whole number of minor units.
pub(super) fn amount(wire: Option<&WireMoney>) -> Result<Option<Money>, Status> {
    let decode = |wire: &WireMoney| {
        Money::try_from(wire).map_err(|error| status::invalid_field("amount", error.to_string()))
    };
    wire.map(decode).transpose()
}

/// The state; `None` if it is unspecified.
pub(super) fn state(wire: i32) -> Option<State> {
    State::ALL
        .into_iter()
        .find(|state| encode::state(*state) as i32 == wire)
}

/// The account; `None` if it is unspecified.
pub(super) fn account(wire: i32) -> Option<Account> {
    Account::ALL
        .into_iter()
        .find(|account| encode::account(*account) as i32 == wire)
}
