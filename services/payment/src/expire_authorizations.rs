//! Lets authorizations go that were not captured in time.

use std::time::Duration;

use chassis::Facility;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    desk::Desk,
    error::Error,
    operation::{Kind, Operation},
    payment::State,
    store::{self, operations},
};

const BATCH: i32 = 100;

/// Works until `shutdown`. The processor is told by whoever resumes operations.
pub async fn expire_authorizations(desk: Desk, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(Duration::from_millis(desk.authorization.sweep_ms));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = sweep(&desk).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error.message = error, "lapsed authorizations cannot be let go");
        }
    }
}

async fn sweep(desk: &Desk) -> Result<(), Error> {
    let mut tx = desk.database.begin_system().await?;
    let lapsed = store::lapsed(&mut tx, BATCH).await?;
    tx.commit().await?;
    for (id, facility) in lapsed {
        expire(desk, id, facility).await?;
    }
    Ok(())
}

async fn expire(desk: &Desk, id: Uuid, facility: String) -> Result<(), Error> {
    let facility = Facility::try_from(facility).map_err(|_| Error::Orphan(id))?;
    let mut tx = desk.database.begin(&facility).await?;
    let Some(payment) = store::lock(&mut tx, id).await? else {
        return Ok(());
    };
    // It may have been captured, or its capture begun, since it was found.
    let open = operations::open_of(&mut tx, id).await?;
    if payment.state != State::Authorized || open.is_some() {
        return Ok(());
    }
    let authorization = operations::authorization_of(&mut tx, id)
        .await?
        .ok_or(Error::Orphan(id))?;
    let amount = payment.money(payment.due()).ok_or(Error::Orphan(id))?;
    let operation = Operation::following(Uuid::now_v7(), Kind::Expire, id, authorization, amount);
    operations::insert(&mut tx, facility.as_str(), &operation, Duration::ZERO).await?;
    tx.commit().await?;
    Ok(())
}
