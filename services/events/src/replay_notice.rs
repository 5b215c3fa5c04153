//! The message that makes a consumer replay a dead letter, or continue with the events parked behind it. It only
//! names the dead letter: the consumer reads it from the database, so no replay is too large to be sent.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    envelope::{DEAD_LETTER, FACILITY, Headers, KEY},
    outbox::{Notice, notify},
};

/// Inserts the message into the outbox, inside the caller's transaction. Only the dead letter's consumer receives
/// its subject.
pub(crate) async fn send(
    tx: &mut PgConnection,
    service: &str,
    dead_letter: Uuid,
    message_id: String,
) -> Result<(), sqlx::Error> {
    let row = sqlx::query!(
        "select aggregate_id, consumer, facility from events.dead_letter where id = $1",
        dead_letter,
    )
    .fetch_one(&mut *tx)
    .await?;
    let headers = Headers::from([
        (DEAD_LETTER.into(), dead_letter.to_string()),
        (KEY.into(), row.aggregate_id.to_string()),
        (FACILITY.into(), row.facility),
    ]);
    let notice = Notice {
        message_id,
        subject: format!("retry.{service}.{}", row.consumer),
        aggregate_id: row.aggregate_id,
        headers: &headers,
        body: &[],
    };
    notify(tx, &notice).await
}
