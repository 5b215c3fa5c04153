//! The ledger's tables. There is no way to change what is in them.

use money::{Currency, Money};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{currency, known};
use crate::ledger::{Account, Cause, Entry, Transaction};

/// An entry as it is listed.
#[derive(Clone, Debug)]
pub struct Booked {
    /// Orders the entries: newest first means largest first.
    pub id: i64,
    pub transaction_id: Uuid,
    pub account: Account,
    pub amount: Money,
    pub cause: Cause,
    pub order_id: Uuid,
    pub payment_id: Option<Uuid>,
    pub causation_id: Uuid,
    pub created_at: OffsetDateTime,
}

/// The sums of one account in one currency in minor units, both positive. They may be beyond what one amount can be.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    pub account: Account,
    pub currency: Currency,
    pub debit: i128,
    pub credit: i128,
}

/// What a list of entries is narrowed to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub order_id: Option<Uuid>,
    pub account: Option<Account>,
}

/// Books a transaction with its entries. What its source has booked under its cause before is an error of the
/// constraint `ledger_booked_once`.
pub async fn book(
    conn: &mut PgConnection,
    facility: &str,
    transaction: &Transaction,
) -> Result<(), sqlx::Error> {
    let entries = transaction.entries();
    let accounts: Vec<&str> = entries.iter().map(|entry| entry.account.name()).collect();
    let currencies: Vec<&str> = entries.iter().map(|entry| entry.currency.code()).collect();
    let amounts: Vec<i64> = entries.iter().map(|Entry { amount, .. }| *amount).collect();
    let origin = transaction.origin;
    sqlx::query!(
        "with booked as (
             insert into payment.ledger_transaction
                 (id, facility, cause, order_id, payment_id, causation_id, source_id)
             values ($1, $2, $3, $4, $5, $6, $7)
         )
         insert into payment.ledger_entry (facility, transaction_id, order_id, account, currency, amount)
         select $2, $1, $4, account, currency, amount
         from unnest($8::text[], $9::text[], $10::bigint[]) with ordinality
             as e (account, currency, amount, position)
         order by position",
        transaction.id,
        facility,
        transaction.cause.name(),
        origin.order_id,
        origin.payment_id,
        origin.causation_id,
        origin.source_id,
        &accounts as _,
        &currencies as _,
        &amounts,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Every account that has entries, by currency and account.
pub async fn sums(
    conn: &mut PgConnection,
    order_id: Option<Uuid>,
    in_currency: Option<&str>,
) -> Result<Vec<Sums>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select account, currency,
               coalesce(sum(amount) filter (where amount > 0), 0)::text as "debit!",
               coalesce(-sum(amount) filter (where amount < 0), 0)::text as "credit!"
           from payment.ledger_entry
           where ($1::uuid is null or order_id = $1) and ($2::text is null or currency = $2)
           group by currency, account
           order by currency"#,
        order_id,
        in_currency,
    )
    .fetch_all(conn)
    .await?;
    let mut sums = rows
        .into_iter()
        .map(|row| {
            // PostgreSQL's `sum(bigint)` is a numeric, for which the text is the common ground.
            let sum = |text: &str| known("sum", text, text.parse().ok());
            Ok(Sums {
                account: known("account", &row.account, Account::named(&row.account))?,
                currency: currency(&row.currency)?,
                debit: sum(&row.debit)?,
                credit: sum(&row.credit)?,
            })
        })
        .collect::<Result<Vec<_>, sqlx::Error>>()?;
    sums.sort_by_key(|sums| (sums.currency, sums.account));
    Ok(sums)
}

/// Entries, newest first, that come after the one numbered `after`.
pub async fn list(
    conn: &mut PgConnection,
    filter: Filter,
    after: Option<i64>,
    at_most: i64,
) -> Result<Vec<Booked>, sqlx::Error> {
    let rows = sqlx::query!(
        "select e.id, e.transaction_id, e.account, e.currency, e.amount, e.order_id, e.created_at, t.cause,
             t.payment_id, t.causation_id
         from payment.ledger_entry e join payment.ledger_transaction t on t.id = e.transaction_id
         where ($1::uuid is null or e.order_id = $1) and ($2::text is null or e.account = $2)
             and ($3::bigint is null or e.id < $3)
         order by e.id desc limit $4",
        filter.order_id,
        filter.account.map(Account::name),
        after,
        at_most,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Booked {
                id: row.id,
                transaction_id: row.transaction_id,
                account: known("account", &row.account, Account::named(&row.account))?,
                amount: Money::new(row.amount, currency(&row.currency)?),
                cause: known("cause", &row.cause, Cause::named(&row.cause))?,
                order_id: row.order_id,
                payment_id: row.payment_id,
                causation_id: row.causation_id,
                created_at: row.created_at,
            })
        })
        .collect()
}
