//! Opens a void for authorizations that were not captured in time.

use std::time::Duration;

use chassis::Facility;
use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    app::App,
    changes::{Changes, write},
    error::Error,
    operation::{Kind, Operation},
    payment::State,
    store::{
        self, LapsedAuthorization,
        locks::{self, Target},
    },
};

/// Authorizations listed at once.
const PAGE: i32 = 100;
/// Authorizations that are expired at the same time.
const CONCURRENCY: usize = 4;

/// Sweeps once per `sweep_ms` until `shutdown`. [`super::resolve_unknown`] sends the voids to the processor.
pub async fn run(app: App, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(Duration::from_millis(app.authorization_settings.sweep_ms));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = sweep(&app, &shutdown).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error.message = error, "lapsed authorizations cannot be listed");
        }
    }
}

/// Expires all lapsed authorizations. If one fails, the others are expired all the same.
async fn sweep(app: &App, shutdown: &CancellationToken) -> Result<(), Error> {
    let mut after = None;
    loop {
        let mut tx = app.database.begin_system().await?;
        let lapsed = store::list_lapsed(&mut tx, after, PAGE).await?;
        tx.commit().await?;
        let full = lapsed.len() == PAGE as usize;
        after = lapsed.last().map(|last| last.lapsed_at);
        stream::iter(lapsed)
            .for_each_concurrent(
                CONCURRENCY,
                |LapsedAuthorization {
                     payment_id, facility, ..
                 }| async move {
                    if let Err(error) = expire(app, payment_id, facility).await {
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

async fn expire(app: &App, id: Uuid, facility: String) -> Result<(), Error> {
    let facility = Facility::try_from(facility).map_err(|_| Error::Inconsistent(id))?;
    let mut tx = app.database.begin(&facility).await?;
    let Some(locked) = locks::lock_payment(&mut tx, &facility, Target::Payment(id)).await? else {
        return Ok(());
    };
    let payment = locked.payment;
    // Since it was listed it may have been captured, or its capture may have begun.
    let operations = locks::list_summaries(&mut tx, &[(&facility, id, None)])
        .await?
        .pop();
    let operations = operations.map(|(operations, _)| operations).unwrap_or_default();
    if payment.state != State::Authorized || operations.open.is_some() {
        return Ok(());
    }
    let authorization = operations.authorization.ok_or(Error::Inconsistent(id))?;
    let amount = payment.money(payment.due()).ok_or(Error::Inconsistent(id))?;
    let operation = Operation::on_authorization(Uuid::now_v7(), Kind::Expire, id, authorization, amount);
    let mut changes = Changes::new(&facility, payment);
    changes.open(operation, Duration::ZERO, None);
    write(&mut tx, &[changes]).await?;
    tx.commit().await?;
    Ok(())
}
