//! Builds the published events of claims and remittance files.

use ::events::{Event, Meta};
use chassis::Facility;
use prost::Name;
use uuid::Uuid;

/// Wraps a message as an event of the claim or file `aggregate_id`. `version` is the aggregate's version after the
/// change.
pub fn to_event<M: Name>(facility: &Facility, aggregate_id: Uuid, version: i64, message: &M) -> Event {
    let facility = facility.as_str().to_owned();
    Event::new(
        message,
        Meta {
            facility,
            aggregate_id,
            version,
            saga_id: None,
            causation_id: None,
        },
    )
}
