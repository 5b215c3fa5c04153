//! A post office for use without one: it decides by the payer, as a card network's test mode decides by the card.
//! `docs/sandbox-post-office.md` lists what it does. It remembers what was filed in a table of its own.

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
    store::sandbox::{self, Counted},
};

/// The built-in post office.
#[derive(Clone)]
pub struct Sandbox {
    memory: Batcher<Memory>,
    settings: config::Sandbox,
}

impl Sandbox {
    /// One that keeps its memory in `database`.
    pub fn new(database: Database, settings: config::Sandbox, tasks: chassis::Tasks) -> Sandbox {
        Sandbox {
            memory: Batcher::new(Memory { database }, Limits::default(), tasks),
            settings,
        }
    }

    async fn decide(&self, submission: &Submission) -> Result<Verdict, Unavailable> {
        let payer = submission.details.payer_id.as_str();
        let takes_from = if payer == "SANDBOX-DOWN" {
            i32::from(self.settings.down_calls) + 1
        } else {
            1
        };
        let call = Call {
            facility: submission.facility.clone(),
            submission_id: submission.id,
            takes_from,
        };
        let counted = self.memory.submit(call, None).await;
        let call = counted.map_err(|refused| Unavailable(refused.to_string()))?;
        match payer {
            "SANDBOX-DOWN" if call.calls < takes_from => Err(Unavailable(format!(
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

/// A submission that is handed in or asked after.
struct Call {
    facility: Facility,
    submission_id: Uuid,
    takes_from: i32,
}

/// Counts the calls, those that come at the same time in one statement.
struct Memory {
    database: Database,
}

impl Command for Memory {
    type Item = Call;
    type Outcome = Counted;
    type Error = sqlx::Error;

    fn aggregate(&self, call: &Call) -> Uuid {
        call.submission_id
    }

    fn is_outage(&self, error: &sqlx::Error) -> bool {
        Fault::of(error) == Fault::Outage
    }

    async fn execute(&self, calls: &[Arc<Call>]) -> Result<Vec<Counted>, sqlx::Error> {
        let facilities = calls.iter().map(|call| &call.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let rows: Vec<_> = calls.iter().map(|call| call.row()).collect();
        let mut counted = sandbox::count(&mut tx, &rows).await?;
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
    fn row(&self) -> sandbox::Call<'_> {
        sandbox::Call {
            facility: &self.facility,
            submission_id: self.submission_id,
            takes_from: self.takes_from,
        }
    }
}

impl PostOffice for Sandbox {
    fn file<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
        Box::pin(self.decide(submission))
    }

    fn ask<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
        Box::pin(self.decide(submission))
    }
}
