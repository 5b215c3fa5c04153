//! Claims that the post office has not decided are asked after, and resubmissions that it has not got are handed in.

use std::time::Duration;

use chassis::Facility;
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    claim::State,
    desk::Desk,
    error::Error,
    filing,
    post_office::Verdict,
    store::{self, filings},
};

/// How long a claim waits whose follow-up has failed in a way that does not pass.
const SET_ASIDE_MS: i64 = 60_000;

/// Claims taken up in one round.
const ROUND: i32 = 100;

/// Runs until `shutdown`. What fails is tried again in a later round.
pub async fn run(desk: Desk, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(Duration::from_millis(desk.filing.poll_ms));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        match due(&desk).await {
            Ok(due) => {
                stream::iter(due)
                    .for_each_concurrent(usize::from(desk.filing.concurrency), |(facility, id)| {
                        attend(&desk, facility, id)
                    })
                    .await;
            }
            Err(error) => tracing::warn!(error.message = %error, "cannot look for claims to follow up"),
        }
    }
}

async fn due(desk: &Desk) -> Result<Vec<(Facility, Uuid)>, Error> {
    let mut tx = desk.database.begin_system().await?;
    let due = filings::due(&mut tx, ROUND).await?;
    tx.rollback().await?;
    Ok(due)
}

async fn attend(desk: &Desk, facility: Facility, id: Uuid) {
    match follow_up(desk, &facility, id).await {
        Ok(()) | Err(Error::FilingInProgress) => {}
        // The post office is asked again when the claim is due again.
        Err(error) if error.is_passing() || matches!(error, Error::PostOffice(_)) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(claim.id = %id, error.message = format!("{error:#}"), "a claim is followed up later");
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!(claim.id = %id, error.message = format!("{error:#}"), "a claim cannot be followed up");
            if let Err(error) = set_aside(desk, &facility, id).await {
                tracing::warn!(claim.id = %id, error.message = %error, "a claim cannot be set aside");
            }
        }
    }
}

/// What fails for good fails every time: without a pause a hundred such claims would keep all others from their turn.
async fn set_aside(desk: &Desk, facility: &Facility, id: Uuid) -> Result<(), Error> {
    let mut tx = desk.database.begin(facility).await?;
    filings::set_aside(&mut tx, id, SET_ASIDE_MS).await?;
    tx.commit().await?;
    Ok(())
}

async fn follow_up(desk: &Desk, facility: &Facility, id: Uuid) -> Result<(), Error> {
    let mut tx = desk.database.begin(facility).await?;
    // Since the look somebody else may have taken it, or the facility may have withdrawn it.
    let Some(record) = store::lock(&mut tx, id).await?.filter(|record| !record.filing) else {
        return Ok(());
    };
    if !record.state.awaits_answer() {
        return Ok(());
    }
    let lease = filing::lease(&mut tx, desk, facility, &record).await?;
    tx.commit().await?;

    let verdict = filing::hand_in(desk, facility, &lease).await?;
    if record.state == State::Submitted && verdict == Verdict::Pending {
        return filing::give_back(desk, facility, &lease).await;
    }
    let mut tx = desk.database.begin(facility).await?;
    let events = filing::settle(&mut tx, desk, facility, &lease, verdict).await?;
    events::append(&mut tx, &events).await?;
    tx.commit().await?;
    desk.outbox.wake();
    Ok(())
}
