//! Lets authorizations go that were not captured in time.

use std::time::Duration;

use chassis::Facility;
use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    changes::{Changes, write},
    desk::Desk,
    error::Error,
    operation::{Kind, Operation},
    payment::State,
    store::{
        self, Lapsed,
        locks::{self, Target},
    },
};

const PAGE: i32 = 100;
/// Authorizations whose expiry is written at the same time.
const CONCURRENCY: usize = 4;

/// Works until `shutdown`. The processor is told by whoever resumes operations.
pub async fn expire_authorizations(desk: Desk, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(Duration::from_millis(desk.authorization.sweep_ms));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = sweep(&desk, &shutdown).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                error.message = error,
                "lapsed authorizations cannot be looked for"
            );
        }
    }
}

/// Goes through all that have lapsed; one that cannot be let go holds up none of the others.
async fn sweep(desk: &Desk, shutdown: &CancellationToken) -> Result<(), Error> {
    let mut after = None;
    loop {
        let mut tx = desk.database.begin_system().await?;
        let lapsed = store::lapsed(&mut tx, after, PAGE).await?;
        tx.commit().await?;
        let full = lapsed.len() == PAGE as usize;
        after = lapsed.last().map(|last| last.lapsed_at);
        stream::iter(lapsed)
            .for_each_concurrent(
                CONCURRENCY,
                |Lapsed {
                     payment_id, facility, ..
                 }| async move {
                    if let Err(error) = expire(desk, payment_id, facility).await {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(
                            payment.id = %payment_id,
                            error.message = error,
                            "a lapsed authorization cannot be let go; it is tried again at the next sweep"
                        );
                    }
                },
            )
            .await;
        if !full || shutdown.is_cancelled() {
            return Ok(());
        }
    }
}

async fn expire(desk: &Desk, id: Uuid, facility: String) -> Result<(), Error> {
    let facility = Facility::try_from(facility).map_err(|_| Error::Orphan(id))?;
    let mut tx = desk.database.begin(&facility).await?;
    let Some(locked) = locks::lock_one(&mut tx, &facility, Target::Payment(id)).await? else {
        return Ok(());
    };
    let payment = locked.payment;
    // It may have been captured, or its capture begun, since it was found.
    let standing = locks::standing(&mut tx, &[(&facility, id, None)]).await?.pop();
    let standing = standing.map(|(standing, _)| standing).unwrap_or_default();
    if payment.state != State::Authorized || standing.open.is_some() {
        return Ok(());
    }
    let authorization = standing.authorization.ok_or(Error::Orphan(id))?;
    let amount = payment.money(payment.due()).ok_or(Error::Orphan(id))?;
    let operation = Operation::following(Uuid::now_v7(), Kind::Expire, id, authorization, amount);
    let mut changes = Changes::none(&facility, payment);
    changes.open(operation, Duration::ZERO, None);
    write(&mut tx, &[changes]).await?;
    tx.commit().await?;
    Ok(())
}
