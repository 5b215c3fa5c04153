//! Claims that the post office has not decided are asked after, and resubmissions that it has not got are handed in.
//!
//! Claims are followed up one by one, as soon as there is a place: one that takes long holds up none of the others, and
//! a payer that does not answer holds at most half of the places.

use std::{collections::HashMap, time::Duration};

use chassis::Facility;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    claim::State,
    desk::Desk,
    error::Error,
    filing::{
        self, Lease,
        leases::{Turn, Wanted},
    },
    post_office::Verdict,
    store::filings::{self, Due},
};

/// How long a claim waits whose follow-up has failed in a way that does not pass.
const SET_ASIDE_MS: i64 = 60_000;
/// How long a stopping service waits for the exchanges that are going on. One that is dropped loses its lease, and is
/// made again.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs until `shutdown`. What fails is tried again later.
pub async fn run(desk: Desk, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(Duration::from_millis(desk.filing.poll_ms));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let places = usize::from(desk.filing.concurrency);
    let mut going_on = FuturesUnordered::new();
    let mut taken = Taken::new(places);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            Some(ended) = going_on.next() => {
                taken.give_back(ended);
                continue;
            }
            () = shutdown.cancelled() => break,
        }
        let free = places - going_on.len();
        if free == 0 {
            continue;
        }
        match due(&desk, free, &taken).await {
            Ok(due) => {
                for due in due.into_iter().filter_map(|due| taken.take(due)) {
                    let desk = desk.clone();
                    going_on.push(
                        async move {
                            attend(&desk, &due.facility, due.id).await;
                            due.id
                        }
                        .boxed(),
                    );
                }
            }
            Err(error) => tracing::warn!(error.message = %error, "cannot look for claims to follow up"),
        }
    }
    let ended = async { while going_on.next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, ended).await;
    Ok(())
}

/// The claims that are followed up at this moment.
struct Taken {
    payers: HashMap<Uuid, String>,
    most_of_one_payer: usize,
}

impl Taken {
    fn new(places: usize) -> Taken {
        Taken {
            payers: HashMap::new(),
            most_of_one_payer: places.div_ceil(2),
        }
    }

    /// Takes a claim up, unless it is already, or its payer has its share of the places.
    fn take(&mut self, due: Due) -> Option<Due> {
        if self.payers.contains_key(&due.id) || self.count(&due.payer_id) >= self.most_of_one_payer {
            return None;
        }
        self.payers.insert(due.id, due.payer_id.clone());
        Some(due)
    }

    fn give_back(&mut self, claim: Uuid) {
        self.payers.remove(&claim);
    }

    fn count(&self, payer_id: &str) -> usize {
        self.payers.values().filter(|payer| *payer == payer_id).count()
    }

    /// The payers that have their share of the places.
    fn busy(&self) -> Vec<String> {
        let mut payers: Vec<String> = self.payers.values().cloned().collect();
        payers.sort();
        payers.dedup();
        payers.retain(|payer| self.count(payer) >= self.most_of_one_payer);
        payers
    }
}

async fn due(desk: &Desk, free: usize, taken: &Taken) -> Result<Vec<Due>, Error> {
    let mut tx = desk.database.begin_system().await?;
    // Claims that are taken up and have no lease yet are found, too.
    let at_most = i32::try_from(free + taken.payers.len()).unwrap_or(i32::MAX);
    let mut due = filings::due(&mut tx, at_most, &taken.busy()).await?;
    tx.rollback().await?;
    due.retain(|due| !taken.payers.contains_key(&due.id));
    due.truncate(free);
    Ok(due)
}

async fn attend(desk: &Desk, facility: &Facility, id: Uuid) {
    let taken = desk.leases.take(Wanted::followed_up(facility, id)).await;
    let (epoch, failed) = match taken {
        // Since the look another call may have taken it, or the facility may have withdrawn it.
        Ok(Turn::Others | Turn::Answered(_)) => return,
        Ok(Turn::Ours(lease)) => (Some(lease.epoch()), follow_up(desk, *lease).await),
        Err(error) => (None, Err(error)),
    };
    match failed {
        Ok(()) | Err(Error::FilingInProgress) => {}
        // The post office is asked again when the claim is due again.
        Err(error) if error.is_passing() || matches!(error, Error::PostOffice(_)) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(claim.id = %id, error.message = format!("{error:#}"), "a claim is followed up later");
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!(claim.id = %id, error.message = format!("{error:#}"), "a claim cannot be followed up");
            if let Err(error) = set_aside(desk, facility, id, epoch).await {
                tracing::warn!(claim.id = %id, error.message = %error, "a claim cannot be set aside");
            }
        }
    }
}

/// What fails for good fails every time: without a pause a hundred such claims would keep all others from their turn.
async fn set_aside(desk: &Desk, facility: &Facility, id: Uuid, epoch: Option<i64>) -> Result<(), Error> {
    let mut tx = desk.database.begin(facility).await?;
    filings::set_aside(&mut tx, facility, id, epoch, SET_ASIDE_MS).await?;
    tx.commit().await?;
    Ok(())
}

async fn follow_up(desk: &Desk, lease: Lease) -> Result<(), Error> {
    let verdict = filing::hand_in(desk, &lease).await?;
    if lease.state() == State::Submitted && verdict == Verdict::Pending {
        return desk.outcomes.release(lease).await;
    }
    desk.outcomes.write(lease, verdict).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(payer_id: &str) -> Due {
        Due {
            facility: Facility::new("al-noor").unwrap(),
            id: Uuid::now_v7(),
            payer_id: payer_id.to_owned(),
        }
    }

    #[test]
    fn one_payer_holds_at_most_half_of_the_places() {
        let mut taken = Taken::new(4);
        let first = taken.take(due("SILENT")).unwrap();
        assert!(taken.take(first.clone()).is_none(), "it is taken up already");
        assert!(taken.busy().is_empty());
        assert!(taken.take(due("SILENT")).is_some());
        assert!(taken.take(due("SILENT")).is_none());
        assert_eq!(taken.busy(), ["SILENT"]);
        assert!(taken.take(due("OTHER")).is_some());
        taken.give_back(first.id);
        assert!(taken.busy().is_empty() && taken.take(due("SILENT")).is_some());
    }

    #[test]
    fn a_single_place_goes_to_whoever_is_due() {
        let mut taken = Taken::new(1);
        assert!(taken.take(due("ONLY")).is_some());
        assert_eq!(taken.busy(), ["ONLY"]);
    }
}
