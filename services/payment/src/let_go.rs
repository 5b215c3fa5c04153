//! The lease of an operation that the database's absence has interrupted is given back as soon as the database is there
//! again: this process is alive, and nobody should wait for the lease to run out.

use std::time::Duration;

use chassis::Facility;
use tokio::time::Instant;

use crate::{desk::Desk, error::Error, operation::Operation, store::operations};

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(100);

/// Lets go of an operation that the caller has leased and works on no more. Whoever resumes operations asks the
/// processor what became of it.
pub(crate) fn let_go(desk: &Desk, facility: &Facility, operation: &Operation) {
    let until = Instant::now() + desk.processing.lease();
    let (desk, facility, operation) = (desk.clone(), facility.clone(), operation.clone());
    let tasks = desk.tasks.clone();
    tasks.run(async move {
        while Instant::now() < until && release(&desk, &facility, &operation).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    });
}

async fn release(desk: &Desk, facility: &Facility, operation: &Operation) -> Result<(), Error> {
    let mut tx = desk.database.begin(facility).await?;
    operations::release(&mut tx, operation.id, operation.attempts).await?;
    tx.commit().await?;
    Ok(())
}
