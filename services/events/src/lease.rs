//! Exclusive work by time-bounded lease, and the epoch that fences a former owner off.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// Work that this process alone may do, until the lease runs out.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) name: String,
    pub(crate) epoch: i64,
    owner: Uuid,
}

impl Lease {
    /// Takes a lease that is free or has run out. `None`: another process has it.
    ///
    /// Waits for the former owner's open transactions that hold [`fence`]: what they commit is over before the new
    /// owner starts.
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
        // A row share-locked by a running transaction is not skipped for ever: those are short, and this is repeated.
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

    /// Prolongs the lease. False: another process has taken it.
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

/// Holds the lease's epoch until the end of the transaction: nobody takes over before it. False: somebody has.
pub(crate) async fn fence(tx: &mut PgConnection, name: &str, epoch: i64) -> Result<bool, sqlx::Error> {
    let held = sqlx::query_scalar!(
        "select true from events.lease where name = $1 and epoch = $2 for key share",
        name,
        epoch,
    );
    Ok(held.fetch_optional(tx).await?.is_some())
}
