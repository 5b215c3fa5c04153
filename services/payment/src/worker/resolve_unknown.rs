//! Resolves operations whose lease has expired because the processor did not answer or the process died: queries
//! their status at the processor. An authorization that was sent once is never sent again.

use std::time::Duration;

use chassis::{Facility, facility_tasks::FacilityTasks};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{app::App, call_processor::Mode, error::Error, execute, store::operations};

/// Runs until `shutdown`, then waits for the operations in progress. A slow operation occupies one of the
/// `resume_concurrency` slots, and free slots go to the facilities in turn.
pub async fn run(app: App, shutdown: CancellationToken) {
    let pause = Duration::from_millis(app.processor_settings.poll_ms);
    let mut running = FacilityTasks::default();
    while !shutdown.is_cancelled() {
        if let Err(error) = resume_due(&app, &mut running).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error.message = error, "due operations cannot be leased");
        }
        tokio::select! {
            Some(()) = running.join_next() => {}
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
    }
    running.join_all().await;
}

async fn resume_due(app: &App, running: &mut FacilityTasks) -> Result<(), Error> {
    let free = usize::from(app.processor_settings.resume_concurrency).saturating_sub(running.count());
    let Ok(free @ 1..) = i32::try_from(free) else {
        return Ok(());
    };
    let mut tx = app.database.begin_system().await?;
    let due = operations::acquire_due_leases(
        &mut tx,
        app.processor_settings.lease(),
        free,
        &running.by_facility(),
    )
    .await?;
    tx.commit().await?;
    for (id, facility) in due {
        let app = app.clone();
        running.spawn(facility.clone(), async move {
            match resume(&app, id, facility).await {
                // An open operation is queried again later, and a refusal is recorded.
                Ok(())
                | Err(Error::ProcessorTimeout | Error::ProcessorUnreachable | Error::DeadlineExceeded | Error::InProgress) => {}
                Err(Error::ProcessorRefused { .. } | Error::Refused(_)) => {}
                Err(error) if error.is_transient() => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(operation.id = %id, error.message = error, "operation not resumed, retrying later");
                }
                // Its new lease puts it behind all other due operations. It is resumed when that expires.
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(operation.id = %id, error.message = error, "operation cannot be resumed");
                }
            }
        });
    }
    Ok(())
}

async fn resume(app: &App, id: Uuid, facility: String) -> Result<(), Error> {
    let facility = Facility::try_from(facility).map_err(|_| Error::Inconsistent(id))?;
    let mut tx = app.database.begin(&facility).await?;
    let operation = operations::lock(&mut tx, id)
        .await?
        .ok_or(Error::Inconsistent(id))?;
    tx.commit().await?;
    if !operation.is_open() {
        return Ok(());
    }
    execute::complete(app, &facility, operation, Mode::Query, None)
        .await
        .map(drop)
}
