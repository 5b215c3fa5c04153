//! The class and the fingerprint of the failure that made an event a dead letter.

use sha2::{Digest as _, Sha256};

use crate::HandlerError;

/// Why an event became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Permanent,
    Schema,
    Crash,
    Exhausted,
}

impl Class {
    /// The class of an error that is not retried.
    pub(crate) fn from_error(error: &HandlerError) -> Self {
        match error {
            HandlerError::Transient(..) | HandlerError::Unavailable(..) => Self::Exhausted,
            HandlerError::Permanent(..) => Self::Permanent,
            HandlerError::Schema(..) => Self::Schema,
        }
    }

    /// The class as stored in the database and used in the subject `dlq.<service>.<consumer>.<class>`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Schema => "schema",
            Self::Crash => "crash",
            Self::Exhausted => "exhausted",
        }
    }
}

/// A hash that is equal for failures of one kind: parts that vary between events are removed from the message
/// first.
pub(crate) fn fingerprint(consumer: &str, type_name: &str, class: Class, error: &HandlerError) -> String {
    let message = without_variables(error.message());
    let parts = [consumer, type_name, class.as_str(), error.code(), &message].join("\u{1f}");
    hex::encode(&Sha256::digest(parts)[..8])
}

/// Replaces every word that has a digit by `#`: ids, amounts, times and positions all have one.
fn without_variables(message: &str) -> String {
    let words = message.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '.');
    words
        .filter(|word| !word.is_empty())
        .map(|word| {
            if word.contains(|c: char| c.is_ascii_digit()) {
                "#"
            } else {
                word
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn failures_that_differ_by_ids_and_amounts_share_a_fingerprint() {
        let fingerprint_of =
            |text: &str| fingerprint("c", "t", Class::Permanent, &HandlerError::permanent("CODE", text));
        let id = Uuid::now_v7();
        assert_eq!(
            fingerprint_of("claim 17 paid 12.50 too much"),
            fingerprint_of("claim 9 paid 340.00 too much")
        );
        assert_eq!(
            fingerprint_of(&format!("no order {id}")),
            fingerprint_of("no order 00000000-0000-0000-0000-000000000000")
        );
        assert_ne!(fingerprint_of("no order"), fingerprint_of("no payment"));
    }
}
