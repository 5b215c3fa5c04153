//! Output: tables for people, Protobuf's JSON for programs.

mod table;

use std::sync::OnceLock;

use anyhow::Context as _;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;
pub(crate) use table::Table;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::failure::Failure;

/// Encodes a message as Protobuf's JSON, with every field, so that its shape does not depend on its values.
pub(crate) fn json<M: Message + Name>(message: &M) -> Result<Value, Failure> {
    let name = M::full_name();
    let descriptor = pool()?
        .get_message_by_name(&name)
        .with_context(|| format!("{name} is not in the contract"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .with_context(|| format!("{name} cannot be decoded"))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    Ok(dynamic.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// Reads a message from Protobuf's JSON. Unknown fields are refused, so that typing errors are found.
pub(crate) fn from_json<M: Message + Name + Default>(text: &str) -> Result<M, String> {
    let name = M::full_name();
    let pool = pool().map_err(|_| "the contract cannot be read".to_owned())?;
    let descriptor = pool
        .get_message_by_name(&name)
        .ok_or_else(|| format!("{name} is not in the contract"))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor, &mut deserializer)
        .and_then(|dynamic| deserializer.end().map(|()| dynamic))
        .map_err(|error| format!("this is no {name} in JSON: {error}"))?;
    dynamic
        .transcode_to()
        .map_err(|error| format!("{name} cannot be encoded: {error}"))
}

/// Prints a JSON document.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints one name and value per line; skips empty values.
pub(crate) fn print_fields(fields: &[(&str, String)]) {
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        println!("{name:<16} {value}");
    }
}

/// The text for a list without rows: `no orders`, or `no orders match` when it was filtered.
pub(crate) fn no_rows(rows: &str, filtered: bool) -> String {
    format!("no {rows}{}", if filtered { " match" } else { "" })
}

/// `12.50 AED`; empty for an amount that is absent.
pub(crate) fn money(amount: Option<&proto::google::r#type::Money>) -> String {
    let Some(wire) = amount else { return String::new() };
    match money::Money::try_from(wire) {
        Ok(amount) => format!("{amount} {}", wire.currency_code),
        // The services send a zero amount without a currency for "nothing yet".
        Err(_) if wire.units == 0 && wire.nanos == 0 => String::new(),
        // A sum of the ledger may exceed the range of `money::Money`.
        Err(_) => {
            let sign = if wire.units < 0 || wire.nanos < 0 { "-" } else { "" };
            let (units, nanos) = (wire.units.unsigned_abs(), wire.nanos.unsigned_abs());
            format!("{sign}{units}.{nanos:09} {}", wire.currency_code)
        }
    }
}

/// An enum value without its prefix: `FULFILLED`; empty for `UNSPECIFIED`.
pub(crate) fn short_name(name: &str) -> String {
    const PREFIXES: &[&str] = &[
        "MESH_BREAKER_STATE_",
        "ORDER_REFUND_STATE_",
        "ORDER_STATE_",
        "PAYMENT_STATE_",
        "PAYMENT_PURPOSE_",
        "REFUND_STATE_",
        "CLAIM_STATE_",
        "FINANCIAL_STATUS_",
        "SAGA_STEP_STATE_",
        "SAGA_ACTION_KIND_",
        "SAGA_STATE_",
        "LEDGER_ACCOUNT_",
        "LEDGER_CAUSE_",
        "DEAD_LETTER_STATE_",
        "DEAD_LETTER_EDIT_STATE_",
        "ERROR_CLASS_",
        "REPLAY_RUN_STATE_",
        "SETTLEMENT_HOLD_",
        "CAPTURE_MODE_",
        "RESUBMISSION_TYPE_",
    ];
    let short = PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    if short == "UNSPECIFIED" {
        String::new()
    } else {
        short.to_owned()
    }
}

/// A time in UTC, to the second; empty if it is absent.
pub(crate) fn timestamp(time: Option<&prost_types::Timestamp>) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    time.and_then(|time| OffsetDateTime::from_unix_timestamp(time.seconds).ok())
        .and_then(|time| time.format(FORMAT).ok())
        .unwrap_or_default()
}

/// A time from an eClaimLink file, in Dubai's time zone as in the file, because the payer's day counts for a
/// settlement. Empty if it is absent.
pub(crate) fn dubai_timestamp(time: Option<&prost_types::Timestamp>) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second][offset_hour sign:mandatory]:[offset_minute]"
    );
    time.and_then(|time| OffsetDateTime::from_unix_timestamp(time.seconds).ok())
        .and_then(|time| time.to_offset(time::macros::offset!(+4)).format(FORMAT).ok())
        .unwrap_or_default()
}

pub(crate) fn pool() -> Result<&'static DescriptorPool, Failure> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).context("the contract cannot be read")?;
    Ok(POOL.get_or_init(|| pool))
}

#[cfg(test)]
mod tests {
    use proto::order::v1::{Order, OrderState};

    use super::*;

    #[test]
    fn json_has_every_field_under_its_protobuf_json_name() {
        let order = Order {
            id: "o".into(),
            state: OrderState::Fulfilled.into(),
            version: 3,
            ..Order::default()
        };
        let value = json(&order).unwrap();
        assert_eq!(value["state"], "ORDER_STATE_FULFILLED");
        assert_eq!(value["version"], "3");
        assert_eq!(value["patientId"], "");
        assert!(value["lines"].as_array().unwrap().is_empty());
    }

    #[test]
    fn states_lose_their_prefix_and_absent_moments_are_empty() {
        assert_eq!(
            short_name(OrderState::AwaitingPayment.as_str_name()),
            "AWAITING_PAYMENT"
        );
        assert_eq!(short_name(OrderState::Unspecified.as_str_name()), "");
        assert_eq!(timestamp(None), "");
        assert_eq!(
            timestamp(Some(&prost_types::Timestamp { seconds: 0, nanos: 0 })),
            "1970-01-01 00:00:00Z"
        );
    }

    #[test]
    fn a_settlement_is_shown_on_its_day_in_dubai() {
        // 1 April 2025, midnight in Dubai; in UTC it is still 31 March.
        let settled = prost_types::Timestamp {
            seconds: 1_743_451_200,
            nanos: 0,
        };
        assert_eq!(dubai_timestamp(Some(&settled)), "2025-04-01 00:00:00+04:00");
        assert_eq!(dubai_timestamp(None), "");
    }
}
