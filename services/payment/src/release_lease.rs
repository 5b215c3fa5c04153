//! Releases the lease of an operation that a database outage has interrupted, as soon as the database is available
//! again. Otherwise the operation would have to wait until the lease expires.

use std::time::Duration;

use chassis::Facility;
use tokio::time::Instant;

use crate::{app::App, error::Error, operation::Operation, store::operations};

/// The pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Releases in the background the lease of an operation that the caller no longer works on. Attempts end when the
/// lease would have expired. The next process that leases the operation queries its status at the processor.
pub(crate) fn spawn(app: &App, facility: &Facility, operation: &Operation) {
    let until = Instant::now() + app.processor_settings.lease();
    let (app, facility, operation) = (app.clone(), facility.clone(), operation.clone());
    let tasks = app.tasks.clone();
    tasks.run(async move {
        while Instant::now() < until && release(&app, &facility, &operation).await.is_err() {
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    });
}

async fn release(app: &App, facility: &Facility, operation: &Operation) -> Result<(), Error> {
    let mut tx = app.database.begin(facility).await?;
    operations::release_lease(&mut tx, operation.id, operation.attempts).await?;
    tx.commit().await?;
    Ok(())
}
