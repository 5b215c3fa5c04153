//! Replays of single dead letters.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::replay_notice;

/// Makes the consumer replay a dead letter. The message id differs between replays, since the broker drops an id that it has stored within two minutes.
pub(super) async fn send(tx: &mut PgConnection, service: &str, id: Uuid) -> Result<(), sqlx::Error> {
    let count = sqlx::query_scalar!(
        "update events.dead_letter set state = 'replaying', replay_count = replay_count + 1 where id = $1
         returning replay_count",
        id,
    )
    .fetch_one(&mut *tx)
    .await?;
    replay_notice::send(tx, service, id, format!("replay:{id}:{count}")).await
}
