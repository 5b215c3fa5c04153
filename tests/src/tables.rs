//! Tables of any size, filled by the server itself, as lists and sweeps read them after many months.
//!
//! One of every thousand rows of the facility `al-noor` is in a rare state, of a rare payer or in a rare account;
//! every hundred thousandth line has the code `RARE`. A tenth of the rows belongs to another facility.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::{Database, Service};

mod calls;
mod events;

pub use calls::{Call, calls};

/// The facility that most rows belong to.
pub const FACILITY: &str = "al-noor";

/// Fills the tables of one service with `rows` rows each (the ledger with three times as many), and updates the
/// planner's statistics.
///
/// # Panics
/// When the schema does not accept the rows: the generator has to follow the migrations.
pub async fn fill(database: &Database, service: Service, rows: u64) {
    let mut connection = PgConnection::connect(&database.superuser_url())
        .await
        .expect("the server is up");
    // Triggers and foreign keys are not checked: the rows are correct by construction, and many.
    let statements = [
        "set session_replication_role = replica; set synchronous_commit = off",
        "create or replace function pg_temp.uid(kind integer, n bigint) returns uuid language sql immutable
         as $$ select ('01900000-0000-7' || lpad(kind::text, 3, '0') || '-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$",
        "create or replace function pg_temp.place(n bigint) returns text language sql immutable
         as $$ select case when n % 10 = 0 then 'elsewhere' else 'al-noor' end $$",
        "create or replace function pg_temp.at(n bigint, of bigint) returns timestamptz language sql stable
         as $$ select now() - interval '300 days' + n * interval '299 days' / of $$",
    ];
    for statement in statements {
        run(&mut connection, statement, rows).await;
    }
    let tables: &[&str] = match service {
        Service::Order => &ORDER,
        Service::Payment => &PAYMENT,
        Service::Claims => &CLAIMS,
    };
    for statement in tables {
        run(&mut connection, statement, rows).await;
    }
    // Every service has the tables of the crate `events`; a service with its own consumers stands for all.
    if service == Service::Payment {
        for statement in &events::EVENTS {
            run(&mut connection, statement, rows).await;
        }
    }
    run(&mut connection, ANSWERS, rows).await;
    run(&mut connection, "analyze", rows).await;
    connection.close().await.expect("the server is up");
}

/// The tables that [`fill`] makes large.
pub fn large(service: Service) -> Vec<&'static str> {
    let own: &[&str] = match service {
        Service::Order => &[
            "placed_order",
            "order_line",
            "saga",
            "saga_step",
            "idempotency",
            "audit",
        ],
        Service::Payment => &[
            "payment",
            "operation",
            "ledger_entry",
            "ledger_transaction",
            "idempotency",
            "audit",
        ],
        Service::Claims => &["claim", "remittance_line", "parked_line", "idempotency", "audit"],
    };
    let of_events: &[&str] = match service {
        Service::Payment => &events::LARGE,
        _ => &[],
    };
    [own, of_events].concat()
}

async fn run(connection: &mut PgConnection, statement: &str, rows: u64) {
    let statement = statement.replace("ROWS", &rows.to_string());
    let done = connection.execute(AssertSqlSafe(statement.clone())).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

const ANSWERS: &str = "with answers as (
        insert into chassis.idempotency (facility, method, request_id, request_hash, resource_id, answer, created_at,
            answered_at)
        select pg_temp.place(n), 'm', pg_temp.uid(900, n), sha256(''), pg_temp.uid(1, n), '', now(), now()
        from generate_series(1, ROWS) n
    )
    insert into chassis.audit (at, facility, subject, method, status)
    select pg_temp.at(n, ROWS), pg_temp.place(n), 'clerk', 'm', 'OK' from generate_series(1, ROWS) n";

const ORDER: [&str; 4] = [
    "insert into orders.placed_order (id, facility, reference, patient_id, currency, gross, patient_share, payer_net,
         other_payer, payer_id, immediate, payment_method, state, saga_id, busy, version, created_at, updated_at)
     select pg_temp.uid(1, n), pg_temp.place(n), 'R-' || n, 'P-' || n / 20, 'AED', 10000, 2000, 8000, 0, 'INS001', true,
         'tok_visa', case when n % 1001 = 1 then 'balance_due' else 'settled' end, pg_temp.uid(2, n), false, 5,
         pg_temp.at(n, ROWS), pg_temp.at(n, ROWS)
     from generate_series(1, ROWS) n",
    "insert into orders.order_line (order_id, number, facility, code, description, quantity, amount)
     select pg_temp.uid(1, n), 1, pg_temp.place(n), case when n % 100000 = 7 then 'RARE' when n % 2 = 0 then 'COMMON'
         else 'C-' || n % 5000 end, 'consultation', '1', 10000
     from generate_series(1, ROWS) n",
    "insert into orders.saga (id, facility, kind, order_id, plan, position, state, version, deadline_at, begun_at,
         created_at, updated_at, wake_at)
     select pg_temp.uid(2, n), pg_temp.place(n), 'place_order', pg_temp.uid(1, n), '{prepare_claim}', 1,
         case when n % 5003 = 1 then 'stuck' when n % 1001 = 1 then 'compensated' else 'completed' end, 5,
         now() + interval '1 day', pg_temp.at(n, ROWS), pg_temp.at(n, ROWS), pg_temp.at(n, ROWS),
         case when n % 5003 = 1 then now() + interval '1 hour' end
     from generate_series(1, ROWS) n",
    "insert into orders.saga_step (saga_id, step, compensation, facility, state, result, attempts, begun_at, ended_at)
     select pg_temp.uid(2, n), 'prepare_claim', false, pg_temp.place(n), 'succeeded', '', 1, now(), now()
     from generate_series(1, ROWS) n",
];

const PAYMENT: [&str; 4] = [
    "insert into payment.payment (id, facility, order_id, purpose, state, currency, amount, authorized, captured, version,
         expires_at, created_at, updated_at)
     select pg_temp.uid(3, n), pg_temp.place(n), pg_temp.uid(1, n), 'SHARE',
         case when n % 1001 = 1 then 'UNKNOWN' when n % 3 = 0 then 'AUTHORIZED' else 'CAPTURED' end, 'AED', 2000, 2000,
         case when n % 3 = 0 or n % 1001 = 1 then 0 else 2000 end, 3, now() + interval '6 days', pg_temp.at(n, ROWS), pg_temp.at(n, ROWS)
     from generate_series(1, ROWS) n",
    "insert into payment.operation (id, facility, payment_id, kind, state, root_id, currency, amount, captured, request_id,
         lease_until, created_at)
     select pg_temp.uid(4, n), pg_temp.place(n), pg_temp.uid(3, n), 'AUTHORIZE',
         case when n % 1001 = 1 then 'UNKNOWN' else 'SUCCEEDED' end, pg_temp.uid(4, n), 'AED', 2000, 0,
         pg_temp.uid(5, n), now() + interval '1 hour', pg_temp.at(n, ROWS)
     from generate_series(1, ROWS) n",
    "insert into payment.ledger_transaction (id, facility, cause, order_id, causation_id, source_id, created_at)
     select pg_temp.uid(6, n), pg_temp.place(n), 'ORDER_FULFILLED', pg_temp.uid(1, n), pg_temp.uid(7, n),
         pg_temp.uid(8, n), pg_temp.at(n, ROWS)
     from generate_series(1, ROWS) n",
    "insert into payment.ledger_entry (facility, transaction_id, order_id, account, currency, amount, created_at)
     select pg_temp.place(n), pg_temp.uid(6, n), pg_temp.uid(1, n),
         case when e.account = 'PAYER_RECEIVABLE' and n % 1001 = 1 then 'BAD_DEBT' else e.account end, 'AED', e.amount,
         pg_temp.at(n, ROWS)
     from generate_series(1, ROWS) n,
         (values ('PATIENT_RECEIVABLE', 2000), ('PAYER_RECEIVABLE', 8000), ('REVENUE', -10000)) e (account, amount)",
];

const CLAIMS: [&str; 4] = [
    "insert into claims.claim (id, facility, order_id, provider_id, claim_id, payer_id, state, details, submitted_at,
         filing_epoch, created_at, updated_at)
     select pg_temp.uid(9, n), pg_temp.place(n), pg_temp.uid(1, n), 'MF4252', 'C-' || n,
         case when n % 997 = 1 then 'INS-RARE' else 'INS001' end, case when n % 1001 = 1 then 'REJECTED' else 'ACCEPTED' end,
         '', now(), 1, pg_temp.at(n, ROWS), pg_temp.at(n, ROWS)
     from generate_series(1, ROWS) n",
    "insert into claims.remittance_file (id, facility, digest, file_name, state, report)
     select pg_temp.uid(10, n), 'al-noor', sha256(n::text::bytea), 'f', 'ingested', '' from generate_series(1, 100) n",
    "insert into claims.remittance_line (facility, claim, file, ordinal, line, activity_id, payment, currency, denial_code,
         payment_reference, settled_at)
     select pg_temp.place(n), pg_temp.uid(9, n), pg_temp.uid(10, n % 100 + 1), n, 0, 'A1', 8000, 'AED', '', 'CHQ', now()
     from generate_series(1, ROWS) n",
    "insert into claims.parked_line (facility, provider_id, claim_id, id_payer, file, ordinal, line, activity_id, payment,
         currency, denial_code, payment_reference, settled_at)
     select 'al-noor', 'MF4252', 'EARLY-' || n, 'I', pg_temp.uid(10, n % 100 + 1), n, 0, 'A1', 100, 'AED', '', 'CHQ', now()
     from generate_series(1, ROWS) n",
];
