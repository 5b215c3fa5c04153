//! Finds out what became of operations that nobody works on any more: the processor was silent, or the process that
//! worked on them died. The processor is asked; an authorization that it was sent once is never sent again.

use std::time::Duration;

use chassis::Facility;
use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{conduct::drive, desk::Desk, error::Error, exchange::Approach, store::operations};

/// Works until `shutdown`.
pub async fn resolve_unknown(desk: Desk, shutdown: CancellationToken) {
    let batch = desk.processing.resume_concurrency;
    let pause = Duration::from_millis(desk.processing.poll_ms);
    loop {
        let resumed = match resume_due(&desk, batch).await {
            Ok(resumed) => resumed,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error.message = error,
                    "operations without an answer cannot be looked for"
                );
                0
            }
        };
        let pause = if resumed == usize::from(batch) {
            Duration::ZERO
        } else {
            pause
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn resume_due(desk: &Desk, batch: u16) -> Result<usize, Error> {
    let mut tx = desk.database.begin_system().await?;
    let due = operations::claim_due(&mut tx, desk.processing.lease(), batch.into()).await?;
    tx.commit().await?;
    let resumed = due.len();
    stream::iter(due)
        .for_each_concurrent(usize::from(batch), |(id, facility)| async move {
            match resume(desk, id, facility).await {
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
        })
        .await;
    Ok(resumed)
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
