//! Folds the ledger's entries into totals in the background, so that a trial balance reads what is new and no more.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    desk::Desk,
    error::Error,
    store::ledger::{self, Unfolded},
};

/// Entries folded in one transaction.
const PAGE: i32 = 20_000;
/// Between two looks whether the transactions that write entries have ended.
const WRITERS: Duration = Duration::from_millis(50);

/// Works until `shutdown`. Several processes may: they take turns.
pub async fn fold_ledger(desk: Desk, every: Duration, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            folded = fold(&desk) => if let Err(error) = folded {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error.message = error,
                    "the ledger's totals cannot be brought up to date; trial balances get slower"
                );
            }
        }
    }
}

async fn fold(desk: &Desk) -> Result<(), Error> {
    let mut tx = desk.database.begin_system().await?;
    let Unfolded {
        mut folded_to,
        numbered_to,
        writers,
    } = ledger::unfolded(&mut tx).await?;
    tx.commit().await?;
    if folded_to >= numbered_to {
        return Ok(());
    }
    ended(desk, &writers).await?;
    while folded_to < numbered_to {
        let mut tx = desk.database.begin_system().await?;
        folded_to = ledger::fold(&mut tx, numbered_to, PAGE).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Waits until none of these transactions is under way any more.
async fn ended(desk: &Desk, writers: &[String]) -> Result<(), Error> {
    while !writers.is_empty() {
        let mut tx = desk.database.begin_system().await?;
        let now = ledger::writers(&mut tx).await?;
        tx.commit().await?;
        if !writers.iter().any(|writer| now.contains(writer)) {
            break;
        }
        tokio::time::sleep(WRITERS).await;
    }
    Ok(())
}
