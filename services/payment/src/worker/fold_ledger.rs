//! Folds the ledger's entries into totals, so that a trial balance reads only the entries after the last fold.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    error::Error,
    store::ledger::{self, FoldState},
};

/// Entries folded in one transaction.
const PAGE: i32 = 20_000;
/// The pause between two checks whether the transactions that write entries have ended.
const WRITERS_POLL: Duration = Duration::from_millis(50);

/// Folds once per `every` until `shutdown`. It may run in several processes; they take turns.
pub async fn run(app: App, every: Duration, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            folded = fold(&app) => if let Err(error) = folded {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error.message = error,
                    "ledger totals not updated, trial balances get slower"
                );
            }
        }
    }
}

async fn fold(app: &App) -> Result<(), Error> {
    let mut tx = app.database.begin_system().await?;
    let FoldState {
        mut folded_to,
        numbered_to,
        writers,
    } = ledger::get_fold_state(&mut tx).await?;
    tx.commit().await?;
    if folded_to >= numbered_to {
        return Ok(());
    }
    wait_for_end(app, &writers).await?;
    while folded_to < numbered_to {
        let mut tx = app.database.begin_system().await?;
        folded_to = ledger::fold(&mut tx, numbered_to, PAGE).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Waits until all of these transactions have ended.
async fn wait_for_end(app: &App, writers: &[String]) -> Result<(), Error> {
    while !writers.is_empty() {
        let mut tx = app.database.begin_system().await?;
        let now = ledger::list_writers(&mut tx).await?;
        tx.commit().await?;
        if !writers.iter().any(|writer| now.contains(writer)) {
            break;
        }
        tokio::time::sleep(WRITERS_POLL).await;
    }
    Ok(())
}
