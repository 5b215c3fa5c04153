//! What payers say of claims.

use std::sync::Arc;

use events::{Delivery, Handler, HandlerError};
use proto::claims::v1::{
    ClaimDenied, ClaimRejected, ClaimRemittance, ClaimRemitted, ClaimResubmitted, ClaimTakenBack,
};
use sqlx::PgConnection;

use super::{amount, lock, save};
use crate::{
    error::Error,
    order::Order,
    settlement::{Activity, DenialPolicy, Remittance},
};

/// Settles orders by what their payers pay, refuse and take back. A claim's events come in order; one that comes again
/// is known by the claim's version.
pub struct Claims(pub Arc<DenialPolicy>);

impl Claims {
    /// The consumer's name.
    pub const NAME: &'static str = "order-claims";
    /// What it consumes.
    pub const SUBJECTS: [&'static str; 5] = [
        "evt.claims.claim.rejected",
        "evt.claims.claim.remitted",
        "evt.claims.claim.denied",
        "evt.claims.claim.taken_back",
        "evt.claims.claim.resubmitted",
    ];

    async fn remitted(
        &self,
        conn: &mut PgConnection,
        delivery: &Delivery,
        remittance: Option<ClaimRemittance>,
    ) -> Result<(), HandlerError> {
        let missing = || HandlerError::schema("REMITTANCE_MISSING", "the event holds no remittance");
        let remittance = remittance.ok_or_else(missing)?;
        let Some(mut order) = lock(conn, &remittance.order_id).await? else {
            return Ok(());
        };
        let from = order.version;
        let facts = facts(&order, delivery.version, &remittance)?;
        order.remitted(facts, &self.0).map_err(Error::from)?;
        save(conn, order, from, delivery).await
    }
}

impl Handler for Claims {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        if delivery.is::<ClaimRejected>() {
            let event: ClaimRejected = delivery.decode()?;
            let Some(mut order) = lock(tx, &event.order_id).await? else {
                return Ok(());
            };
            let from = order.version;
            order.claim_rejected(delivery.version);
            return save(tx, order, from, delivery).await;
        }
        if delivery.is::<ClaimResubmitted>() {
            let event: ClaimResubmitted = delivery.decode()?;
            let Some(mut order) = lock(tx, &event.order_id).await? else {
                return Ok(());
            };
            let from = order.version;
            order.claim_resubmitted(delivery.version);
            return save(tx, order, from, delivery).await;
        }
        let remittance = if delivery.is::<ClaimDenied>() {
            delivery.decode::<ClaimDenied>()?.remittance
        } else if delivery.is::<ClaimTakenBack>() {
            delivery.decode::<ClaimTakenBack>()?.remittance
        } else {
            delivery.decode::<ClaimRemitted>()?.remittance
        };
        self.remitted(tx, delivery, remittance).await
    }
}

fn facts(
    order: &Order,
    claim_version: i64,
    remittance: &ClaimRemittance,
) -> Result<Remittance, HandlerError> {
    let activities = remittance.activities.iter().map(|wire| {
        Ok(Activity {
            id: wire.activity_id.clone(),
            net: amount(order, wire.net.as_ref())?,
            paid: amount(order, wire.paid.as_ref())?,
            taken_back: amount(order, wire.taken_back.as_ref())?,
            denial_code: wire.denial_code.clone(),
            ..Activity::default()
        })
    });
    Ok(Remittance {
        claim_version,
        net_paid: amount(order, remittance.net_paid.as_ref())?,
        activities: activities.collect::<Result<_, HandlerError>>()?,
        answered: remittance
            .lines
            .iter()
            .map(|line| line.activity_id.clone())
            .collect(),
    })
}
