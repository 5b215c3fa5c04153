//! Events of the claims service.

use std::sync::Arc;

use events::{Delivery, Handler, HandlerError};
use proto::claims::v1::{
    ClaimDenied, ClaimRejected, ClaimRemittance, ClaimRemitted, ClaimResubmitted, ClaimTakenBack,
};
use sqlx::PgConnection;

use super::{lock, minor_units, save};
use crate::{
    error::Error,
    order::Order,
    order::{Activity, Remittance},
    settlement::DenialPolicy,
};

/// Settles orders by what payers pay, refuse and take back. A claim's events arrive in order; a repeated one is
/// recognized by the claim's version.
pub struct ClaimEvents(pub Arc<DenialPolicy>);

impl ClaimEvents {
    /// The consumer's name.
    pub const NAME: &'static str = "order-claims";
    /// The subjects that it consumes.
    pub const SUBJECTS: [&'static str; 5] = [
        "evt.claims.claim.rejected",
        "evt.claims.claim.remitted",
        "evt.claims.claim.denied",
        "evt.claims.claim.taken_back",
        "evt.claims.claim.resubmitted",
    ];

    async fn handle_remittance(
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
        let facts = decode_remittance(&order, delivery.version, &remittance)?;
        order.apply_remittance(facts, &self.0).map_err(Error::from)?;
        save(conn, order, from, delivery).await
    }
}

impl Handler for ClaimEvents {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        if delivery.is::<ClaimRejected>() {
            let event: ClaimRejected = delivery.decode()?;
            let Some(mut order) = lock(tx, &event.order_id).await? else {
                return Ok(());
            };
            let from = order.version;
            order.apply_claim_rejection(delivery.version);
            return save(tx, order, from, delivery).await;
        }
        if delivery.is::<ClaimResubmitted>() {
            let event: ClaimResubmitted = delivery.decode()?;
            let Some(mut order) = lock(tx, &event.order_id).await? else {
                return Ok(());
            };
            let from = order.version;
            order.apply_claim_resubmission(delivery.version);
            return save(tx, order, from, delivery).await;
        }
        let remittance = if delivery.is::<ClaimDenied>() {
            delivery.decode::<ClaimDenied>()?.remittance
        } else if delivery.is::<ClaimTakenBack>() {
            delivery.decode::<ClaimTakenBack>()?.remittance
        } else {
            delivery.decode::<ClaimRemitted>()?.remittance
        };
        self.handle_remittance(tx, delivery, remittance).await
    }
}

fn decode_remittance(
    order: &Order,
    claim_version: i64,
    remittance: &ClaimRemittance,
) -> Result<Remittance, HandlerError> {
    let activities = remittance.activities.iter().map(|wire| {
        Ok(Activity {
            id: wire.activity_id.clone(),
            net: minor_units(order, wire.net.as_ref())?,
            paid: minor_units(order, wire.paid.as_ref())?,
            taken_back: minor_units(order, wire.taken_back.as_ref())?,
            denial_code: wire.denial_code.clone(),
            ..Activity::default()
        })
    });
    Ok(Remittance {
        claim_version,
        net_paid: minor_units(order, remittance.net_paid.as_ref())?,
        activities: activities.collect::<Result<_, HandlerError>>()?,
        answered: remittance
            .lines
            .iter()
            .map(|line| line.activity_id.clone())
            .collect(),
    })
}
