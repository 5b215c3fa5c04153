//! Exclusive work by a time-bounded lease. Its epoch fences off a former owner.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// A lease on work that only its owner may do until it expires.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) name: String,
    pub(crate) epoch: i64,
    owner: Uuid,
}

impl Lease {
    /// Acquires a lease that is free or has expired. `None`: another process has it.
    ///
    /// Waits for the former owner's open transactions that hold [`fence`]: they have ended before the new owner
    /// starts.
    pub(crate) async fn acquire(
        pool: &PgPool,
        name: &str,
        owner: Uuid,
        ttl: Duration,
    ) -> Result<Option<Self>, sqlx::Error> {
        let mut tx = chassis::postgres::begin_with(pool, "begin").await?;
        sqlx::query!(
            "insert into events.lease (name, owner, epoch, until) values ($1, '', 0, '-infinity')
             on conflict (name) do nothing",
            name,
        )
        .execute(&mut *tx)
        .await?;
        let free = sqlx::query_scalar!(
            "select true from events.lease where name = $1 and until < now() for update skip locked",
            name,
        );
        // The row is skipped while a transaction has it share-locked. Those transactions are short, and this is
        // repeated.
        if free.fetch_optional(&mut *tx).await?.is_none() {
            return Ok(None);
        }
        let epoch = sqlx::query_scalar!(
            "update events.lease
             set owner = $2, epoch = epoch + 1, until = clock_timestamp() + make_interval(secs => $3)
             where name = $1 returning epoch",
            name,
            owner.to_string(),
            ttl.as_secs_f64(),
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(Self {
            name: name.to_owned(),
            epoch,
            owner,
        }))
    }

    /// Extends the lease. False: another process has taken it.
    pub(crate) async fn renew(&self, pool: &PgPool, ttl: Duration) -> Result<bool, sqlx::Error> {
        let renewed = sqlx::query!(
            "update events.lease set until = clock_timestamp() + make_interval(secs => $4)
             where name = $1 and owner = $2 and epoch = $3",
            self.name,
            self.owner.to_string(),
            self.epoch,
            ttl.as_secs_f64(),
        )
        .execute(pool)
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    /// Lets another process take over at once.
    pub(crate) async fn release(self, pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update events.lease set until = '-infinity' where name = $1 and owner = $2 and epoch = $3",
            self.name,
            self.owner.to_string(),
            self.epoch,
        )
        .execute(pool)
        .await?;
        Ok(())
    }
}

/// Locks the lease's epoch until the end of the transaction, so that no process can take over before it. False:
/// another process has taken over.
pub(crate) async fn fence(tx: &mut PgConnection, name: &str, epoch: i64) -> Result<bool, sqlx::Error> {
    let held = sqlx::query_scalar!(
        "select true from events.lease where name = $1 and epoch = $2 for key share",
        name,
        epoch,
    );
    Ok(held.fetch_optional(tx).await?.is_some())
}
