//! The ledger's tables. Their rows are inserted and never changed.

use chassis::Facility;
use money::{Currency, Money};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{currency, decode_name};
use crate::ledger::{Account, Cause, Origin, Transaction};

/// An entry with the details of its transaction.
#[derive(Clone, Debug)]
pub struct EntryRecord {
    /// Assigned in ascending order: the newest entry has the largest id.
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

/// The sums of one account in one currency in minor units, both positive. They may exceed the range of a single
/// amount.
#[derive(Clone, Copy, Debug)]
pub struct AccountSums {
    pub account: Account,
    pub currency: Currency,
    pub debit: i128,
    pub credit: i128,
}

/// The filter of a list of entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub order_id: Option<Uuid>,
    pub account: Option<Account>,
}

/// Inserts transactions with their entries. A second transaction of the same source and cause violates the
/// constraint `ledger_booked_once`.
pub async fn book(
    conn: &mut PgConnection,
    transactions: &[(&Facility, &Transaction)],
) -> Result<(), sqlx::Error> {
    let facilities: Vec<&str> = transactions
        .iter()
        .map(|(facility, _)| facility.as_str())
        .collect();
    let ids: Vec<Uuid> = transactions.iter().map(|(_, booked)| booked.id).collect();
    let causes: Vec<&str> = transactions
        .iter()
        .map(|(_, booked)| booked.cause.name())
        .collect();
    let origin = |value: fn(&Origin) -> Uuid| {
        let values = transactions.iter().map(|(_, booked)| value(&booked.origin));
        values.collect::<Vec<Uuid>>()
    };
    let payments: Vec<Option<Uuid>> = transactions
        .iter()
        .map(|(_, booked)| booked.origin.payment_id)
        .collect();
    let entries = || {
        transactions.iter().flat_map(|(facility, booked)| {
            let with_its = |entry| (facility.as_str(), *booked, entry);
            booked.entries().iter().map(with_its)
        })
    };
    sqlx::query!(
        "with booked as (
             insert into payment.ledger_transaction
                 (id, facility, cause, order_id, payment_id, causation_id, source_id)
             select id, facility, cause, order_id, payment_id, causation_id, source_id
             from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::uuid[], $7::uuid[])
                 as new (id, facility, cause, order_id, payment_id, causation_id, source_id)
         )
         insert into payment.ledger_entry (facility, transaction_id, order_id, account, currency, amount)
         select facility, transaction_id, order_id, account, currency, amount
         from unnest($8::text[], $9::uuid[], $10::uuid[], $11::text[], $12::text[], $13::bigint[]) with ordinality
             as e (facility, transaction_id, order_id, account, currency, amount, position)
         order by position",
        &ids,
        &facilities as &[&str],
        &causes as &[&str],
        &origin(|origin| origin.order_id),
        &payments as &[Option<Uuid>],
        &origin(|origin| origin.causation_id),
        &origin(|origin| origin.source_id),
        &entries().map(|(facility, ..)| facility).collect::<Vec<_>>() as &[&str],
        &entries().map(|(_, booked, _)| booked.id).collect::<Vec<_>>(),
        &entries().map(|(_, booked, _)| booked.origin.order_id).collect::<Vec<_>>(),
        &entries().map(|(.., entry)| entry.account.name()).collect::<Vec<_>>() as &[&str],
        &entries().map(|(.., entry)| entry.currency.code()).collect::<Vec<_>>() as _,
        &entries().map(|(.., entry)| entry.amount).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sums every account that has entries of this order.
pub async fn sum_order(
    conn: &mut PgConnection,
    order_id: Uuid,
    in_currency: Option<&str>,
) -> Result<Vec<AccountSums>, sqlx::Error> {
    let rows = sqlx::query_as!(
        AccountSumsRow,
        r#"select account, currency,
               coalesce(sum(amount) filter (where amount > 0), 0)::text as "debit!",
               coalesce(-sum(amount) filter (where amount < 0), 0)::text as "credit!"
           from payment.ledger_entry
           where facility = current_setting('weft.facility', true) and order_id = $1
               and ($2::text is null or currency = $2)
           group by currency, account"#,
        order_id,
        in_currency,
    );
    sorted(rows.fetch_all(conn).await?)
}

/// Sums every account that has entries: the folded totals plus the entries after them.
pub async fn sum_all(
    conn: &mut PgConnection,
    in_currency: Option<&str>,
) -> Result<Vec<AccountSums>, sqlx::Error> {
    loop {
        // A separate query: the planner must know where the remaining entries begin, or it reads the ledger from
        // the beginning.
        let folded = sqlx::query_scalar!("select folded_to from payment.ledger_folded")
            .fetch_one(&mut *conn)
            .await?;
        let rows = sqlx::query!(
            r#"select account as "account!", currency as "currency!", sum(debit)::text as "debit!",
                   sum(credit)::text as "credit!", (select folded_to from payment.ledger_folded) as "folded_to!"
               from (
                   select account, currency, debit, credit from payment.ledger_total
                   where facility = current_setting('weft.facility', true)
                   union all
                   select account, currency, greatest(amount, 0), greatest(-amount, 0)
                   from payment.ledger_entry
                   where facility = current_setting('weft.facility', true) and id > $1
               ) parts
               where $2::text is null or currency = $2
               group by currency, account"#,
            folded,
            in_currency,
        )
        .fetch_all(&mut *conn)
        .await?;
        // Entries were folded between the two statements and are counted twice: repeat.
        if rows.iter().any(|row| row.folded_to != folded) {
            continue;
        }
        let rows = rows.into_iter().map(|row| AccountSumsRow {
            account: row.account,
            currency: row.currency,
            debit: row.debit,
            credit: row.credit,
        });
        return sorted(rows.collect());
    }
}

struct AccountSumsRow {
    account: String,
    currency: String,
    // PostgreSQL's `sum(bigint)` is a numeric, which is transferred as text.
    debit: String,
    credit: String,
}

fn sorted(rows: Vec<AccountSumsRow>) -> Result<Vec<AccountSums>, sqlx::Error> {
    let sum = |text: &str| decode_name("sum", text, text.parse().ok());
    let mut sums = rows
        .into_iter()
        .map(|row| {
            Ok(AccountSums {
                account: decode_name("account", &row.account, Account::from_name(&row.account))?,
                currency: currency(&row.currency)?,
                debit: sum(&row.debit)?,
                credit: sum(&row.credit)?,
            })
        })
        .collect::<Result<Vec<_>, sqlx::Error>>()?;
    sums.sort_by_key(|sums| (sums.currency, sums.account));
    Ok(sums)
}

/// The progress of folding entries into the totals.
#[derive(Clone, Debug)]
pub struct FoldState {
    pub folded_to: i64,
    /// The largest id that was assigned to an entry.
    pub numbered_to: i64,
    /// The transactions that were writing entries at that time. After they have ended, every entry up to
    /// `numbered_to` is visible or was rolled back.
    pub writers: Vec<String>,
}

/// Reads how far the ledger is folded.
pub async fn get_fold_state(conn: &mut PgConnection) -> Result<FoldState, sqlx::Error> {
    sqlx::query_as!(
        FoldState,
        r#"select f.folded_to, w.numbered_to as "numbered_to!", w.writers as "writers!"
           from payment.ledger_folded f, payment.ledger_writers() w"#
    )
    .fetch_one(conn)
    .await
}

/// Lists the transactions that are writing entries now.
pub async fn list_writers(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(r#"select payment.ledger_writers_now() as "writers!""#)
        .fetch_one(conn)
        .await
}

/// Folds the next entries into the totals, at most `at_most` and none with an id above `upto`. Returns the last
/// folded id.
pub async fn fold(conn: &mut PgConnection, upto: i64, at_most: i32) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select payment.fold_ledger($1, $2) as "folded_to!""#,
        upto,
        at_most
    )
    .fetch_one(conn)
    .await
}

/// Lists at most `at_most` entries that come after the one with the id `after`, newest first.
pub async fn list(
    conn: &mut PgConnection,
    filter: Filter,
    after: Option<i64>,
    at_most: i64,
) -> Result<Vec<EntryRecord>, sqlx::Error> {
    let rows = sqlx::query!(
        "select e.id, e.transaction_id, e.account, e.currency, e.amount, e.order_id, e.created_at, t.cause,
             t.payment_id, t.causation_id
         from payment.ledger_entry e join payment.ledger_transaction t on t.id = e.transaction_id
         where e.facility = current_setting('weft.facility', true)
             and ($1::uuid is null or e.order_id = $1) and ($2::text is null or e.account = $2)
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
            Ok(EntryRecord {
                id: row.id,
                transaction_id: row.transaction_id,
                account: decode_name("account", &row.account, Account::from_name(&row.account))?,
                amount: Money::new(row.amount, currency(&row.currency)?),
                cause: decode_name("cause", &row.cause, Cause::from_name(&row.cause))?,
                order_id: row.order_id,
                payment_id: row.payment_id,
                causation_id: row.causation_id,
                created_at: row.created_at,
            })
        })
        .collect()
}
