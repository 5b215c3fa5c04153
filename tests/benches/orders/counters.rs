//! Counters of a load: processor time by process, PostgreSQL's counters, and the broker's.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use tests::{SqlCounters, sql_counters::REPORTED_WITHIN};

use crate::system::System;

/// Sampling interval of processes. What a process uses between the last sample and its end is lost.
const LOOK: Duration = Duration::from_millis(500);
const STREAM: &str = "EVENTS";
/// The load generator's own name among the processes.
const OWN: &str = "load generator";

/// The whole cost of one load.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) processes: BTreeMap<String, Used>,
    pub(crate) sql: SqlCounters,
    pub(crate) broker: Broker,
}

/// Processor time used by a group of processes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Used {
    pub(crate) nanoseconds: u64,
    /// Time that it was runnable without a core.
    pub(crate) waited_ns: u64,
    /// Number of times it was scheduled.
    pub(crate) switches: u64,
}

/// Messages that the broker received and sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Broker {
    /// Messages in the stream of events.
    pub(crate) events: i64,
    /// All messages of clients, including acknowledgements and requests.
    pub(crate) messages_in: i64,
    pub(crate) messages_out: i64,
    pub(crate) bytes_in: i64,
}

/// A consumer of the stream.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) name: String,
    /// Unacknowledged messages, delivered or not.
    pub(crate) pending: i64,
}

/// Counts between `start` and `end`.
pub(crate) struct Counting {
    sql: SqlCounters,
    broker: Broker,
    stop: Arc<AtomicBool>,
    sampler: JoinHandle<BTreeMap<String, Used>>,
}

impl Counting {
    /// Starts counting; the system should be idle.
    pub(crate) async fn start(system: &System) -> anyhow::Result<Counting> {
        // Counts that idle sessions have not reported yet belong to the time before.
        tokio::time::sleep(REPORTED_WITHIN).await;
        let sql = SqlCounters::read(&system.databases).await?;
        let broker = system.broker().await?;
        let stop = Arc::new(AtomicBool::new(false));
        let (until, roots) = (Arc::clone(&stop), system.processes()?);
        let sampler = thread::Builder::new()
            .name("processor-time".to_owned())
            .spawn(move || sample(&roots, &until))?;
        Ok(Counting {
            sql,
            broker,
            stop,
            sampler,
        })
    }

    /// Ends the counting, after everything is complete.
    pub(crate) async fn end(self, system: &System) -> anyhow::Result<Counted> {
        self.stop.store(true, Ordering::Relaxed);
        let processes = tokio::task::spawn_blocking(|| self.sampler.join())
            .await?
            .ok()
            .context("the processes' time cannot be read")?;
        let broker = system.broker().await?;
        // Statements and WAL are exact at once, the rest when idle sessions have reported it.
        let at_once = SqlCounters::read(&system.databases).await?;
        tokio::time::sleep(REPORTED_WITHIN).await;
        let mut sql = SqlCounters::read(&system.databases).await?;
        sql.take_statements_and_wal(at_once);
        Ok(Counted {
            processes,
            sql: sql.since(&self.sql),
            broker: Broker {
                events: broker.events - self.broker.events,
                messages_in: broker.messages_in - self.broker.messages_in,
                messages_out: broker.messages_out - self.broker.messages_out,
                bytes_in: broker.bytes_in - self.broker.bytes_in,
            },
        })
    }
}

impl System {
    async fn broker(&self) -> anyhow::Result<Broker> {
        let varz = self.monitor("/varz").await?;
        let number = |name: &str| varz[name].as_i64().unwrap_or_default();
        let streams = self.streams().await?;
        let events = streams.iter().find(|stream| stream["name"] == STREAM);
        Ok(Broker {
            events: events
                .and_then(|stream| stream["state"]["last_seq"].as_i64())
                .unwrap_or_default(),
            messages_in: number("in_msgs"),
            messages_out: number("out_msgs"),
            bytes_in: number("in_bytes"),
        })
    }

    /// The consumers of all streams.
    pub(crate) async fn consumers(&self) -> anyhow::Result<Vec<Consumer>> {
        let mut consumers = Vec::new();
        for stream in self.streams().await? {
            for consumer in stream["consumer_detail"].as_array().into_iter().flatten() {
                let number = |name: &str| consumer[name].as_i64().unwrap_or_default();
                consumers.push(Consumer {
                    name: consumer["name"].as_str().unwrap_or_default().to_owned(),
                    pending: number("num_pending") + number("num_ack_pending"),
                });
            }
        }
        Ok(consumers)
    }

    async fn streams(&self) -> anyhow::Result<Vec<Value>> {
        let jsz = self.monitor("/jsz?streams=true&consumers=true").await?;
        let accounts = jsz["account_details"].as_array().cloned().unwrap_or_default();
        let streams = accounts
            .iter()
            .filter_map(|account| account["stream_detail"].as_array());
        Ok(streams.flatten().cloned().collect())
    }
}

/// Sums the usage of every thread of the system's processes, until `until` is set.
fn sample(roots: &BTreeMap<String, u32>, until: &AtomicBool) -> BTreeMap<String, Used> {
    let mut threads: HashMap<(u32, u32), Seen> = HashMap::new();
    let mut first = true;
    loop {
        let last = until.load(Ordering::Relaxed);
        for (pid, group) in processes(roots) {
            for (thread, used) in used_by(pid) {
                let seen = threads.entry((pid, thread)).or_insert_with(|| Seen {
                    group: group.clone(),
                    // A thread that started later has used all its time since the start.
                    before: if first { used } else { Used::default() },
                    now: used,
                });
                seen.now = used;
                // A new session takes the name of its database a moment after it begins.
                seen.group.clone_from(&group);
            }
        }
        if last {
            break;
        }
        first = false;
        thread::sleep(LOOK);
    }
    let mut groups: BTreeMap<String, Used> = BTreeMap::new();
    for seen in threads.into_values() {
        let group = groups.entry(seen.group).or_default();
        group.nanoseconds += seen.now.nanoseconds.saturating_sub(seen.before.nanoseconds);
        group.waited_ns += seen.now.waited_ns.saturating_sub(seen.before.waited_ns);
        group.switches += seen.now.switches.saturating_sub(seen.before.switches);
    }
    groups
}

struct Seen {
    group: String,
    before: Used,
    now: Used,
}

/// The processes and their group; PostgreSQL's sessions are grouped by database.
fn processes(roots: &BTreeMap<String, u32>) -> Vec<(u32, String)> {
    let mut processes = vec![(std::process::id(), OWN.to_owned())];
    for (name, pid) in roots {
        if name != "postgresql" {
            processes.push((*pid, name.clone()));
            continue;
        }
        processes.push((*pid, "postgres background".to_owned()));
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let command = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            processes.push((child, session(&command)));
        }
    }
    processes
}

/// The group of a child of PostgreSQL, by its title: `postgres: order_app order 127.0.0.1(45918) idle`.
fn session(title: &str) -> String {
    let words: Vec<&str> = title.split([' ', '\0']).collect();
    match words[..] {
        [_, role, database, ..] if role.ends_with("_app") || role.ends_with("_owner") => {
            format!("postgres {database}")
        }
        [_, "weft", ..] => OWN.to_owned(),
        _ => "postgres background".to_owned(),
    }
}

/// What each thread of a process has used so far.
fn used_by(pid: u32) -> Vec<(u32, Used)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let used = tasks.flatten().filter_map(|task| {
        let thread = task.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0));
        let used = Used {
            nanoseconds: fields.next()?,
            waited_ns: fields.next()?,
            switches: fields.next()?,
        };
        Some((thread, used))
    });
    used.collect()
}
