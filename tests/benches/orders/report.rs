//! Report of a run: a table, and one line of JSON.

use std::{collections::BTreeMap, fmt, fs::OpenOptions, io::Write as _, path::Path};

use anyhow::Context as _;
use serde::Serialize;
use tests::{SqlCounters, sql_counters::Statement};

use crate::{
    completion::Completion,
    counters::{Counted, Used},
    load::Answers,
    machine::Machine,
    requests::Kind,
};

/// Number of reported statements, those with the longest total time.
const STATEMENTS: usize = 25;
/// Tables for which the rows per inserting statement are reported.
const BATCHES: [&str; 7] = [
    "chassis.idempotency",
    "orders.placed_order",
    "orders.saga",
    "payment.payment",
    "claims.claim",
    "payment.ledger_transaction",
    "events.inbox",
];

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) run: String,
    pub(crate) release: &'static str,
    pub(crate) build: String,
    pub(crate) orders: Kind,
    pub(crate) facilities: u16,
    pub(crate) round: u16,
    pub(crate) quick: bool,
    /// Arrivals a second of the open loop.
    pub(crate) offered_rate: Option<f64>,
    /// The rate that the search found.
    pub(crate) searched_rate: Option<f64>,
    /// The reasons why the run has failed. Empty: it has succeeded.
    pub(crate) failures: Vec<String>,
    pub(crate) answers: Answered,
    pub(crate) commit_to_ledger_ms: Option<[f64; 2]>,
    #[serde(rename = "settled")]
    pub(crate) completion: Completion,
    pub(crate) cost: Cost,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) machine: Machine,
}

/// The run as callers saw it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answered {
    pub(crate) orders_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    fulfilled: u64,
    declined: u64,
    invalid: u64,
    repeated: u64,
    refused: u64,
    dropped: u64,
    errors: BTreeMap<String, u64>,
}

/// Cost of an order. Values are per order, unless stated otherwise.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    /// Number of orders in the mean: fulfilled and rejected ones.
    orders: u64,
    /// By process, and by database for PostgreSQL's sessions.
    processor_us: BTreeMap<String, f64>,
    /// Sum of the system, without the load generator.
    pub(crate) processor_us_in_all: f64,
    /// Time that processes of the system waited for a core.
    waited_us: f64,
    switches: f64,
    pub(crate) statements: f64,
    statements_of_clients: f64,
    plans_per_statement: f64,
    pub(crate) commits: f64,
    rows_inserted: f64,
    rows_updated: f64,
    rows_deleted: f64,
    /// Share of all updates.
    hot_share: f64,
    /// Total of all tables at the end.
    dead_rows: i64,
    pub(crate) wal_bytes: f64,
    wal_records: f64,
    wal_full_pages: f64,
    wal_syncs: f64,
    pub(crate) events: f64,
    messages_in: f64,
    messages_out: f64,
    message_bytes_in: f64,
    /// Rows of a table per inserting statement.
    batch_sizes: BTreeMap<String, f64>,
    top_statements: Vec<StatementCost>,
}

#[derive(Clone, Debug, Serialize)]
struct StatementCost {
    service: String,
    text: String,
    us: f64,
    calls: f64,
    rows_per_call: f64,
    plans_per_call: f64,
    wal_bytes: f64,
}

impl Report {
    /// Appends the run to a file, as one line of JSON.
    pub(crate) fn append(&self, file: &Path) -> anyhow::Result<()> {
        let opened = OpenOptions::new().create(true).append(true).open(file);
        let mut opened = opened.with_context(|| format!("{} cannot be written", file.display()))?;
        writeln!(opened, "{}", serde_json::to_string(self)?)?;
        Ok(())
    }
}

impl Answered {
    pub(crate) fn new(answers: &Answers) -> Answered {
        Answered {
            orders_per_s: answers.rate(),
            p50_ms: answers.quantile(0.5),
            p95_ms: answers.quantile(0.95),
            p99_ms: answers.quantile(0.99),
            max_ms: answers.quantile(1.0),
            fulfilled: answers.fulfilled,
            declined: answers.declined,
            invalid: answers.invalid,
            repeated: answers.repeated,
            refused: answers.refused,
            dropped: answers.dropped,
            errors: answers.errors.clone(),
        }
    }
}

impl Cost {
    pub(crate) fn new(counted: &Counted, orders: u64) -> Cost {
        let per = |number: f64| number / orders.max(1) as f64;
        let per_order = |number: i64| per(number as f64);
        let statements = counted.sql.statements();
        let sum = |of: &dyn Fn(&Statement) -> i64| statements.iter().map(|one| of(one)).sum::<i64>();
        let calls = sum(&|one| one.calls);
        let rows = counted.sql.rows();
        let of_system = counted
            .processes
            .iter()
            .filter(|(name, _)| *name != "load generator");
        let used: Used = of_system.fold(Used::default(), |sum, (_, used)| Used {
            nanoseconds: sum.nanoseconds + used.nanoseconds,
            waited_ns: sum.waited_ns + used.waited_ns,
            switches: sum.switches + used.switches,
        });
        let processor = counted
            .processes
            .iter()
            .map(|(name, used)| (name.clone(), per(used.nanoseconds as f64 / 1_000.0)));
        Cost {
            orders,
            processor_us: processor.collect(),
            processor_us_in_all: per(used.nanoseconds as f64 / 1_000.0),
            waited_us: per(used.waited_ns as f64 / 1_000.0),
            switches: per(used.switches as f64),
            statements: per_order(calls),
            statements_of_clients: per_order(sum(&|one| if one.top_level { one.calls } else { 0 })),
            plans_per_statement: sum(&|one| one.plans) as f64 / calls.max(1) as f64,
            commits: per_order(counted.sql.commits.values().sum()),
            rows_inserted: per_order(rows.inserted),
            rows_updated: per_order(rows.updated),
            rows_deleted: per_order(rows.deleted),
            hot_share: rows.hot_share(),
            dead_rows: rows.dead,
            wal_bytes: per_order(counted.sql.wal.bytes),
            wal_records: per_order(counted.sql.wal.records),
            wal_full_pages: per_order(counted.sql.wal.full_pages),
            wal_syncs: per_order(counted.sql.wal.syncs),
            events: per_order(counted.broker.events),
            messages_in: per_order(counted.broker.messages_in),
            messages_out: per_order(counted.broker.messages_out),
            message_bytes_in: per_order(counted.broker.bytes_in),
            batch_sizes: batch_sizes(&counted.sql),
            top_statements: statements
                .iter()
                .take(STATEMENTS)
                .map(|one| StatementCost {
                    service: one.service.clone(),
                    text: one.text.chars().take(200).collect(),
                    us: per(one.milliseconds * 1_000.0),
                    calls: per_order(one.calls),
                    rows_per_call: one.rows as f64 / one.calls as f64,
                    plans_per_call: one.plans as f64 / one.calls as f64,
                    wal_bytes: per_order(one.wal_bytes),
                })
                .collect(),
        }
    }
}

/// Rows inserted into a table, divided by the statements that insert into it.
fn batch_sizes(sql: &SqlCounters) -> BTreeMap<String, f64> {
    let mut sizes = BTreeMap::new();
    for (service, table, changed) in sql.tables().filter(|(_, table, _)| BATCHES.contains(table)) {
        let statements = sql.statements().into_iter().filter(|one| {
            let place = one.text.find(&format!("insert into {table}"));
            let after =
                place.and_then(|place| one.text[place..].chars().nth("insert into ".len() + table.len()));
            one.service == service && after.is_some_and(|after| !(after.is_alphanumeric() || after == '_'))
        });
        let calls: i64 = statements.map(|one| one.calls).sum();
        if calls > 0 {
            sizes.insert(
                format!("{service}: {table}"),
                changed.inserted as f64 / calls as f64,
            );
        }
    }
    sizes
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answers, cost) = (&self.answers, &self.cost);
        let offered = self
            .offered_rate
            .map_or(String::new(), |rate| format!(" of {rate:.1} offered"));
        writeln!(f, "{}{offered}", self.run)?;
        writeln!(
            f,
            "  answers    {:.1} orders/s, p50 {:.1} ms, p95 {:.1}, p99 {:.1}, max {:.1}; {} fulfilled, {} declined, {} \
             invalid, {} repeated, {} refused, {} dropped",
            answers.orders_per_s,
            answers.p50_ms,
            answers.p95_ms,
            answers.p99_ms,
            answers.max_ms,
            answers.fulfilled,
            answers.declined,
            answers.invalid,
            answers.repeated,
            answers.refused,
            answers.dropped
        )?;
        write!(f, "  settled    after {:.1} s", self.completion.seconds)?;
        if let Some([p50, p95]) = self.commit_to_ledger_ms {
            write!(
                f,
                "; from the order's end to the ledger p50 {p50:.0} ms, p95 {p95:.0}"
            )?;
        }
        write!(f, "\n  processor  {:.0} us an order:", cost.processor_us_in_all)?;
        for (name, us) in &cost.processor_us {
            write!(f, " {name} {us:.0},")?;
        }
        writeln!(f, " {:.0} switches", cost.switches)?;
        writeln!(
            f,
            "  PostgreSQL {:.1} statements ({:.1} of clients), {:.2} plans each, {:.2} commits, {:.1} rows inserted, {:.1} \
             updated ({:.0} % HOT), {:.1} deleted, {} dead",
            cost.statements,
            cost.statements_of_clients,
            cost.plans_per_statement,
            cost.commits,
            cost.rows_inserted,
            cost.rows_updated,
            100.0 * cost.hot_share,
            cost.rows_deleted,
            cost.dead_rows
        )?;
        writeln!(
            f,
            "  WAL        {:.1} kB, {:.0} records, {:.2} full pages, {:.2} syncs",
            cost.wal_bytes / 1_000.0,
            cost.wal_records,
            cost.wal_full_pages,
            cost.wal_syncs
        )?;
        writeln!(
            f,
            "  broker     {:.2} events, {:.2} messages in, {:.2} out, {:.1} kB in",
            cost.events,
            cost.messages_in,
            cost.messages_out,
            cost.message_bytes_in / 1_000.0
        )?;
        write!(f, "  batches    ")?;
        for (table, size) in &cost.batch_sizes {
            write!(f, "{table} {size:.1}, ")?;
        }
        if self.failures.is_empty() {
            Ok(())
        } else {
            write!(f, "\n  FAILED     {}", self.failures.join("\n             "))
        }
    }
}

/// Prints the medians of all rounds, and the ratios of two releases.
pub(crate) fn summary(reports: &[Report]) {
    type Figure = (&'static str, fn(&Report) -> f64);
    let figures: [Figure; 8] = [
        ("orders/s", |report| report.answers.orders_per_s),
        ("p50 ms", |report| report.answers.p50_ms),
        ("p95 ms", |report| report.answers.p95_ms),
        ("processor us/order", |report| report.cost.processor_us_in_all),
        ("statements/order", |report| report.cost.statements),
        ("commits/order", |report| report.cost.commits),
        ("WAL bytes/order", |report| report.cost.wal_bytes),
        ("events/order", |report| report.cost.events),
    ];
    let mut groups: BTreeMap<(String, u16, String), BTreeMap<&str, Vec<&Report>>> = BTreeMap::new();
    for report in reports {
        let key = (report.orders.to_string(), report.facilities, report.run.clone());
        let releases = groups.entry(key).or_default();
        releases.entry(report.release).or_default().push(report);
    }
    println!("\nmedians");
    for ((orders, facilities, run), releases) in groups {
        println!("{orders}, {facilities} facilities, {run}");
        for (name, figure) in figures {
            let of = |release: &str| {
                releases
                    .get(release)
                    .map(|reports| median(reports.iter().map(|one| figure(one))))
            };
            let ours = of("ours").unwrap_or(f64::NAN);
            match of("against") {
                None => println!("  {name:20} {ours:10.1}"),
                Some(theirs) => println!(
                    "  {name:20} ours {ours:10.1}   against {theirs:10.1}   ratio {:.2}",
                    ours / theirs
                ),
            }
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}
