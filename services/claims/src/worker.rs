//! Background submission: queries the post office about claims that it has not decided, and submits resubmissions
//! that it has not received.
//!
//! Claims are processed one by one as soon as a slot is free, so a slow claim delays no other, and a payer that
//! does not answer occupies at most half of the slots.

use std::{collections::HashMap, time::Duration};

use chassis::Facility;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    app::App,
    claim::State,
    error::Error,
    post_office::Verdict,
    store::submissions::{self, DueClaim},
    submission::{
        self, Lease,
        leases::{Acquisition, LeaseRequest},
    },
};

/// How long a claim is postponed after a permanent failure, in milliseconds.
const POSTPONE_MS: i64 = 60_000;
/// How long shutdown waits for calls in progress. A call that is dropped loses its lease and is made again later.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until `shutdown`. Failed work is retried later.
pub async fn run(app: App, shutdown: CancellationToken) -> anyhow::Result<()> {
    let settings = &app.post_office_settings;
    let mut poll = tokio::time::interval(Duration::from_millis(settings.poll_ms));
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let slots = usize::from(settings.concurrency);
    let mut calls = FuturesUnordered::new();
    let mut active = ActiveClaims::new(slots);
    loop {
        tokio::select! {
            _ = poll.tick() => {}
            Some(finished) = calls.next() => {
                active.remove(finished);
                continue;
            }
            () = shutdown.cancelled() => break,
        }
        let free = slots - calls.len();
        if free == 0 {
            continue;
        }
        match list_due(&app, free, &active).await {
            Ok(due) => {
                for due in due.into_iter().filter_map(|due| active.insert(due)) {
                    let app = app.clone();
                    calls.push(
                        async move {
                            process(&app, &due.facility, due.id).await;
                            due.id
                        }
                        .boxed(),
                    );
                }
            }
            Err(error) => {
                tracing::warn!(error.message = %error, "cannot list claims that are due for the post office");
            }
        }
    }
    let drained = async { while calls.next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

/// The claims that are being processed now, with their payers.
struct ActiveClaims {
    payers: HashMap<Uuid, String>,
    max_per_payer: usize,
}

impl ActiveClaims {
    fn new(slots: usize) -> ActiveClaims {
        ActiveClaims {
            payers: HashMap::new(),
            max_per_payer: slots.div_ceil(2),
        }
    }

    /// Adds a claim. `None` if it is active already or its payer occupies its share of the slots.
    fn insert(&mut self, due: DueClaim) -> Option<DueClaim> {
        if self.payers.contains_key(&due.id) || self.count(&due.payer_id) >= self.max_per_payer {
            return None;
        }
        self.payers.insert(due.id, due.payer_id.clone());
        Some(due)
    }

    fn remove(&mut self, claim: Uuid) {
        self.payers.remove(&claim);
    }

    fn count(&self, payer_id: &str) -> usize {
        self.payers.values().filter(|payer| *payer == payer_id).count()
    }

    /// The payers that occupy their share of the slots.
    fn payers_at_limit(&self) -> Vec<String> {
        let mut payers: Vec<String> = self.payers.values().cloned().collect();
        payers.sort();
        payers.dedup();
        payers.retain(|payer| self.count(payer) >= self.max_per_payer);
        payers
    }
}

async fn list_due(app: &App, free: usize, active: &ActiveClaims) -> Result<Vec<DueClaim>, Error> {
    let mut tx = app.database.begin_system().await?;
    // The query also returns active claims that have no lease yet.
    let limit = i32::try_from(free + active.payers.len()).unwrap_or(i32::MAX);
    let mut due = submissions::list_due(&mut tx, limit, &active.payers_at_limit()).await?;
    tx.rollback().await?;
    due.retain(|due| !active.payers.contains_key(&due.id));
    due.truncate(free);
    Ok(due)
}

async fn process(app: &App, facility: &Facility, id: Uuid) {
    let acquired = app
        .leases
        .acquire(LeaseRequest::for_follow_up(facility, id))
        .await;
    let (epoch, result) = match acquired {
        // Another call has leased the claim since the query, or the facility has withdrawn it.
        Ok(Acquisition::Unavailable | Acquisition::Replayed(_)) => return,
        Ok(Acquisition::Leased(lease)) => (Some(lease.epoch()), follow_up(app, *lease).await),
        Err(error) => (None, Err(error)),
    };
    match result {
        Ok(()) | Err(Error::SubmissionInProgress) => {}
        // The claim becomes due again: after its backoff, or when its lease expires.
        Err(error) if error.is_transient() || matches!(error, Error::PostOffice(_)) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(claim.id = %id, error.message = format!("{error:#}"), "a claim is followed up later");
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!(claim.id = %id, error.message = format!("{error:#}"), "a claim cannot be followed up");
            if let Err(error) = postpone(app, facility, id, epoch).await {
                tracing::warn!(claim.id = %id, error.message = %error, "a claim cannot be postponed");
            }
        }
    }
}

/// A permanent failure repeats on every attempt. Without a pause, a hundred such claims would starve all others.
async fn postpone(app: &App, facility: &Facility, id: Uuid, epoch: Option<i64>) -> Result<(), Error> {
    let mut tx = app.database.begin(facility).await?;
    submissions::postpone(&mut tx, facility, id, epoch, POSTPONE_MS).await?;
    tx.commit().await?;
    Ok(())
}

async fn follow_up(app: &App, lease: Lease) -> Result<(), Error> {
    let verdict = submission::call_post_office(app, &lease).await?;
    if lease.state() == State::Submitted && verdict == Verdict::Pending {
        return app.outcomes.release(lease).await;
    }
    app.outcomes.record(lease, verdict).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(payer_id: &str) -> DueClaim {
        DueClaim {
            facility: Facility::new("al-noor").unwrap(),
            id: Uuid::now_v7(),
            payer_id: payer_id.to_owned(),
        }
    }

    #[test]
    fn one_payer_occupies_at_most_half_of_the_slots() {
        let mut active = ActiveClaims::new(4);
        let first = active.insert(due("SILENT")).unwrap();
        assert!(active.insert(first.clone()).is_none(), "it is active already");
        assert!(active.payers_at_limit().is_empty());
        assert!(active.insert(due("SILENT")).is_some());
        assert!(active.insert(due("SILENT")).is_none());
        assert_eq!(active.payers_at_limit(), ["SILENT"]);
        assert!(active.insert(due("OTHER")).is_some());
        active.remove(first.id);
        assert!(active.payers_at_limit().is_empty() && active.insert(due("SILENT")).is_some());
    }

    #[test]
    fn a_single_slot_can_be_used_by_any_payer() {
        let mut active = ActiveClaims::new(1);
        assert!(active.insert(due("ONLY")).is_some());
        assert_eq!(active.payers_at_limit(), ["ONLY"]);
    }
}
