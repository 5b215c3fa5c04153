//! A sandbox post office for use without a real one. It decides by the payer, as a card network's test mode
//! decides by the card; `docs/sandbox-post-office.md` lists the payers. It stores what was submitted in its own
//! table.

use std::{sync::Arc, time::Duration};

use chassis::{
    Facility,
    batch::{Batcher, Command, Limits},
    postgres::{Database, Fault},
};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{PostOffice, Submission, Unavailable, Verdict};
use crate::{
    config,
    store::sandbox::{self, CallCount},
};

/// The built-in post office.
#[derive(Clone)]
pub struct Sandbox {
    call_counter: Batcher<CountCalls>,
    settings: config::Sandbox,
}

impl Sandbox {
    /// Creates a sandbox that stores its state in `database`.
    pub fn new(database: Database, settings: config::Sandbox, tasks: chassis::Tasks) -> Sandbox {
        Sandbox {
            call_counter: Batcher::new(CountCalls { database }, Limits::default(), tasks),
            settings,
        }
    }

    async fn decide(&self, submission: &Submission) -> Result<Verdict, Unavailable> {
        let payer = submission.details.payer_id.as_str();
        let accepted_from_call = if payer == "SANDBOX-DOWN" {
            i32::from(self.settings.down_calls) + 1
        } else {
            1
        };
        let call = Call {
            facility: submission.facility.clone(),
            submission_id: submission.id,
            accepted_from_call,
        };
        let counted = self.call_counter.submit(call, None).await;
        let call = counted.map_err(|refused| Unavailable(refused.to_string()))?;
        match payer {
            "SANDBOX-DOWN" if call.calls < accepted_from_call => Err(Unavailable(format!(
                "the sandbox is down for call {} of this submission",
                call.calls
            ))),
            "SANDBOX-REJECT" => Ok(Verdict::Rejected(
                "the sandbox rejects the claims of SANDBOX-REJECT".to_owned(),
            )),
            "SANDBOX-SLOW" => {
                tokio::time::sleep(Duration::from_millis(self.settings.slow_ms)).await;
                Ok(Verdict::Accepted)
            }
            "SANDBOX-PENDING" if call.filed_ms.unsigned_abs() < self.settings.acknowledge_after_ms => {
                Ok(Verdict::Pending)
            }
            _ => Ok(Verdict::Accepted),
        }
    }
}

/// A call with a submission: the first attempt, a repetition or a query.
struct Call {
    facility: Facility,
    submission_id: Uuid,
    accepted_from_call: i32,
}

/// Counts the calls of submissions. Concurrent ones share a statement.
struct CountCalls {
    database: Database,
}

impl Command for CountCalls {
    type Item = Call;
    type Outcome = CallCount;
    type Error = sqlx::Error;

    fn aggregate(&self, call: &Call) -> Uuid {
        call.submission_id
    }

    fn is_outage(&self, error: &sqlx::Error) -> bool {
        Fault::classify(error) == Fault::Outage
    }

    async fn execute(&self, calls: &[Arc<Call>]) -> Result<Vec<CallCount>, sqlx::Error> {
        let facilities = calls.iter().map(|call| &call.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let rows: Vec<_> = calls.iter().map(|call| call.to_row()).collect();
        let mut counted = sandbox::count_calls(&mut tx, &rows).await?;
        tx.commit().await?;
        calls
            .iter()
            .map(|call| {
                counted
                    .remove(&call.submission_id)
                    .ok_or(sqlx::Error::RowNotFound)
            })
            .collect()
    }
}

impl Call {
    fn to_row(&self) -> sandbox::Call<'_> {
        sandbox::Call {
            facility: &self.facility,
            submission_id: self.submission_id,
            accepted_from_call: self.accepted_from_call,
        }
    }
}

impl PostOffice for Sandbox {
    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
        Box::pin(self.decide(submission))
    }

    fn query<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
        Box::pin(self.decide(submission))
    }
}
