//! Maps a row of `orders.placed_order` to an order.

use chassis::Facility;
use time::OffsetDateTime;
use uuid::Uuid;

use super::corrupt;
use crate::{
    order::{Account, Hold},
    order::{Order, Price, State},
};

/// All columns of an order.
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) facility: String,
    pub(super) reference: String,
    pub(super) patient_id: String,
    pub(super) currency: String,
    pub(super) gross: i64,
    pub(super) patient_share: i64,
    pub(super) payer_net: i64,
    pub(super) other_payer: i64,
    pub(super) payer_id: String,
    pub(super) immediate: bool,
    pub(super) payment_method: String,
    pub(super) state: String,
    pub(super) payment_id: Option<Uuid>,
    pub(super) claim_id: Option<Uuid>,
    pub(super) failure: Option<serde_json::Value>,
    pub(super) remarks: serde_json::Value,
    pub(super) payer_paid: i64,
    pub(super) transferred: i64,
    pub(super) payer_written_off: i64,
    pub(super) patient_written_off: i64,
    pub(super) balance_paid: i64,
    pub(super) payer_returned: i64,
    pub(super) patient_returned: i64,
    pub(super) hold: String,
    pub(super) activities: serde_json::Value,
    pub(super) claim_version: i64,
    pub(super) refunded: i64,
    pub(super) credit_refunded: i64,
    pub(super) rounding: i64,
    pub(super) refund_count: i32,
    pub(super) saga_id: Uuid,
    pub(super) busy: bool,
    pub(super) version: i64,
    pub(super) expires_at: Option<OffsetDateTime>,
    pub(super) created_at: OffsetDateTime,
    pub(super) updated_at: OffsetDateTime,
}

impl TryFrom<Row> for Order {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Order, sqlx::Error> {
        let failure = row
            .failure
            .map(serde_json::from_value)
            .transpose()
            .map_err(|_| corrupt("order failure"))?;
        Ok(Order {
            id: row.id,
            facility: Facility::new(row.facility).map_err(|_| corrupt("facility"))?,
            reference: row.reference,
            patient_id: row.patient_id,
            currency: row.currency.parse().map_err(|_| corrupt("currency"))?,
            price: Price {
                gross: row.gross,
                patient_share: row.patient_share,
                payer_net: row.payer_net,
                other_payer: row.other_payer,
            },
            payer_id: row.payer_id,
            immediate: row.immediate,
            payment_method: row.payment_method,
            state: State::from_name(&row.state).ok_or_else(|| corrupt("order state"))?,
            payment_id: row.payment_id,
            claim_id: row.claim_id,
            failure,
            remarks: serde_json::from_value(row.remarks).map_err(|_| corrupt("order remarks"))?,
            account: Account {
                payer_paid: row.payer_paid,
                transferred: row.transferred,
                payer_written_off: row.payer_written_off,
                patient_written_off: row.patient_written_off,
                balance_paid: row.balance_paid,
                payer_returned: row.payer_returned,
                patient_returned: row.patient_returned,
                refunded: row.refunded,
                credit_refunded: row.credit_refunded,
                rounding: row.rounding,
            },
            hold: Hold::from_name(&row.hold).ok_or_else(|| corrupt("hold"))?,
            activities: serde_json::from_value(row.activities).map_err(|_| corrupt("activities"))?,
            claim_version: row.claim_version,
            refund_count: row.refund_count,
            saga_id: row.saga_id,
            busy: row.busy,
            version: row.version,
            expires_at: row.expires_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            changes: Vec::new(),
        })
    }
}
