//! Finds out what became of operations that nobody works on any more: the processor was silent, or the process that
//! worked on them died. The processor is asked; an authorization that it was sent once is never sent again.

use std::time::Duration;

use chassis::{Facility, running::Running};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{conduct::drive, desk::Desk, error::Error, exchange::Approach, store::operations};

/// Works until `shutdown`, then finishes what is under way. An operation whose answer is long in coming holds one place, and
/// the places that are free go to the facilities in turn.
pub async fn resolve_unknown(desk: Desk, shutdown: CancellationToken) {
    let pause = Duration::from_millis(desk.processing.poll_ms);
    let mut running = Running::default();
    while !shutdown.is_cancelled() {
        if let Err(error) = resume_due(&desk, &mut running).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                error.message = error,
                "operations without an answer cannot be looked for"
            );
        }
        tokio::select! {
            Some(()) = running.ended() => {}
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
    }
    running.all_ended().await;
}

async fn resume_due(desk: &Desk, running: &mut Running) -> Result<(), Error> {
    let free = usize::from(desk.processing.resume_concurrency).saturating_sub(running.count());
    let Ok(free @ 1..) = i32::try_from(free) else {
        return Ok(());
    };
    let mut tx = desk.database.begin_system().await?;
    let due = operations::claim_due(&mut tx, desk.processing.lease(), free, &running.by_facility()).await?;
    tx.commit().await?;
    for (id, facility) in due {
        let desk = desk.clone();
        running.spawn(facility.clone(), async move {
            match resume(&desk, id, facility).await {
                // What is still open is asked about again later, and what was refused is written down.
                Ok(())
                | Err(Error::NoAnswer | Error::Unreachable | Error::OutOfTime | Error::InProgress) => {}
                Err(Error::ProcessorRefused { .. } | Error::Refused(_)) => {}
                Err(error) if error.is_passing() => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(operation.id = %id, error.message = error, "an operation is resumed later");
                }
                // Its lease has moved it behind all others; it comes again when that runs out.
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(operation.id = %id, error.message = error, "an operation cannot be resumed");
                }
            }
        });
    }
    Ok(())
}

async fn resume(desk: &Desk, id: Uuid, facility: String) -> Result<(), Error> {
    let facility = Facility::try_from(facility).map_err(|_| Error::Orphan(id))?;
    let mut tx = desk.database.begin(&facility).await?;
    let operation = operations::lock(&mut tx, id).await?.ok_or(Error::Orphan(id))?;
    tx.commit().await?;
    if !operation.is_open() {
        return Ok(());
    }
    drive(desk, &facility, operation, Approach::Ask, None)
        .await
        .map(drop)
}
