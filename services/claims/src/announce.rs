//! The events of a claim and of a file.

use chassis::Facility;
use events::{Event, Meta};
use prost::Name;
use uuid::Uuid;

/// An event of the claim or file `aggregate_id`, whose version it is.
pub fn event<M: Name>(facility: &Facility, aggregate_id: Uuid, version: i64, message: &M) -> Event {
    let facility = facility.as_str().to_owned();
    Event::of(
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
