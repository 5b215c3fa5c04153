//! A request that is sent more than once takes effect once and has one response (as with Stripe and AIP-155).
//!
//! A use case inserts the request's key in the transaction that does the work, and stores the response in the
//! transaction that completes it. A repetition gets the first response; while there is none yet, it can wait for
//! it.

mod key;
mod responses;
mod store;
mod waiters;

use std::time::Duration;

pub use key::Key;
pub use responses::{KeyState, acquire, replay, replayed, store_response};
use serde::{Deserialize, Serialize};
pub use store::{NewKey, acquire_all, find, store_responses};
use tonic::Status;
pub use waiters::{notify_waiters, wait_for_response};

use crate::{Violations, retention::Rule, status};

/// The response metadata that marks a repeated response.
pub const REPLAYED: &str = "idempotency-replayed";

/// How long responses are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Hours that a response is kept, at least 24. Default 24. A request without a response is kept thirty times
    /// as long.
    pub keep_hours: u32,
    /// Seconds between two runs of the deletion of old rows: responses, and rows that other settings keep for a
    /// number of days. Default 300.
    pub prune_interval_s: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            keep_hours: 24,
            prune_interval_s: 300,
        }
    }
}

impl Settings {
    pub(crate) fn rule(&self) -> Rule {
        Rule {
            table: "chassis.idempotency",
            function: "chassis.prune_answers",
            keep: Duration::from_secs(u64::from(self.keep_hours) * 3600),
        }
    }

    /// The time between two runs of the deletion of old rows.
    pub(crate) fn sweep_interval(&self) -> Duration {
        Duration::from_secs(self.prune_interval_s.into())
    }

    pub(crate) fn check(&self, violations: &mut Violations) {
        violations.require(self.keep_hours >= 24, "keep_hours", "must be at least 24");
        violations.require(
            self.prune_interval_s >= 1,
            "prune_interval_s",
            "must be at least 1",
        );
    }
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The same `request_id` came with another request before.
    #[error("the request_id was used for another request")]
    KeyReused,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        match error {
            Error::KeyReused => status::failed_precondition(
                "IDEMPOTENCY_KEY_REUSED",
                "this request_id was used for another request; a new request needs a new one",
            ),
            Error::Database(error) => status::database(&error),
        }
    }
}

/// ABORTED `REQUEST_IN_PROGRESS`: the first request with this id is still running. Retry shortly.
pub fn in_progress() -> Status {
    let text = "the same request is still being carried out";
    status::aborted("REQUEST_IN_PROGRESS", text, Duration::from_millis(200))
}
