//! A post office for use without one: it decides by the payer, as a card network's test mode decides by the card.
//! `docs/sandbox-post-office.md` lists what it does. It remembers what was filed in a table of its own.

use std::time::Duration;

use chassis::postgres::Database;
use futures_util::future::BoxFuture;

use super::{PostOffice, Submission, Unavailable, Verdict};
use crate::{
    config,
    store::filings::{self, SandboxCall},
};

/// The built-in post office.
#[derive(Clone, Debug)]
pub struct Sandbox {
    database: Database,
    settings: config::Sandbox,
}

impl Sandbox {
    /// One that keeps its memory in `database`.
    pub fn new(database: Database, settings: config::Sandbox) -> Sandbox {
        Sandbox { database, settings }
    }

    async fn decide(&self, submission: &Submission) -> Result<Verdict, Unavailable> {
        let payer = submission.details.payer_id.as_str();
        let takes_from = if payer == "SANDBOX-DOWN" {
            i32::from(self.settings.down_calls) + 1
        } else {
            1
        };
        let call = self
            .count(submission, takes_from)
            .await
            .map_err(|error| Unavailable(error.to_string()))?;
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

    async fn count(&self, submission: &Submission, takes_from: i32) -> Result<SandboxCall, sqlx::Error> {
        let mut tx = self.database.begin(&submission.facility).await?;
        let call = filings::sandbox_call(&mut tx, &submission.facility, submission.id, takes_from).await?;
        tx.commit().await?;
        Ok(call)
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
