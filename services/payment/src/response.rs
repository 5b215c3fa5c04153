//! The response to a mutating request, and payments as responses show them.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{error::Error, grpc::encode, payment::Payment, store};

/// The response to a mutating request.
#[derive(Clone, Debug)]
pub struct Response {
    pub payment: proto::payment::v1::Payment,
    /// Whether this is the stored response to an earlier request with the same key.
    pub replayed: bool,
}

/// Encodes a payment with its refunds.
pub(crate) async fn encode_payment(
    conn: &mut PgConnection,
    payment: &Payment,
) -> Result<proto::payment::v1::Payment, Error> {
    let encoded = encode_payments(conn, &[(payment, payment.captured > 0)])
        .await?
        .pop();
    encoded.ok_or(Error::Inconsistent(payment.id))
}

/// Encodes payments with their refunds. The flag beside each says whether it may have refunds.
pub(crate) async fn encode_payments(
    conn: &mut PgConnection,
    payments: &[(&Payment, bool)],
) -> Result<Vec<proto::payment::v1::Payment>, Error> {
    let refunded: Vec<Uuid> = payments
        .iter()
        .filter(|(_, has_refunds)| *has_refunds)
        .map(|(payment, _)| payment.id)
        .collect();
    let refunds = if refunded.is_empty() {
        Vec::new()
    } else {
        store::list_refunds(conn, &refunded).await?
    };
    let encoded = payments
        .iter()
        .map(|(payment, _)| encode::payment(payment, &refunds));
    Ok(encoded.collect())
}
