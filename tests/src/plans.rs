//! Executed query plans, as PostgreSQL's module `auto_explain` logs them, including those inside functions.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::{Database, Postgres};

/// An executed plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The statement.
    pub query: String,
    root: Value,
}

/// A node of a plan that touched more rows than allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Excess {
    /// The problem and the table.
    pub what: String,
    /// The statement.
    pub query: String,
}

/// Enables logging of every plan that the service's role executes in new sessions. The server must not be shared
/// with other tests.
pub async fn log(database: &Database, role: &str) {
    let settings = [
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_timing", "off"),
        ("auto_explain.log_nested_statements", "on"),
        ("auto_explain.log_format", "json"),
    ];
    let superuser = database.superuser().await;
    for (name, value) in settings {
        let set = format!("alter role {role} set {name} = '{value}'");
        superuser
            .execute(AssertSqlSafe(set))
            .await
            .expect("a superuser may, and PostgreSQL's own modules are installed");
    }
}

/// Reads every plan from the server's log.
///
/// # Panics
/// When the log has no plan: then nothing was checked.
pub fn logged(server: &Postgres) -> Vec<Plan> {
    let log = server.whole_log();
    let mut plans = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.ends_with(" plan:") {
            continue;
        }
        let mut json = String::new();
        while let Some(next) = lines.next_if(|next| next.starts_with('\t')) {
            json.push_str(next);
        }
        let parsed: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        plans.push(Plan {
            query: parsed["Query Text"].as_str().unwrap_or_default().to_owned(),
            root: parsed["Plan"].clone(),
        });
    }
    assert!(!plans.is_empty(), "no plan was logged");
    plans
}

impl Plan {
    /// Nodes that scanned one of the `large` tables completely, or touched more than `at_most` rows of one.
    pub fn excesses(&self, large: &[&str], at_most: u64) -> Vec<Excess> {
        let mut found = Vec::new();
        self.visit(&self.root, large, at_most, &mut found);
        found
    }

    fn visit(&self, node: &Value, large: &[&str], at_most: u64, found: &mut Vec<Excess>) {
        let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
        // A daily partition counts as its table.
        let table = node["Relation Name"].as_str().unwrap_or_default();
        let whole = table.split_once("_20").map_or(table, |(whole, _)| whole);
        // A bitmap index scan names only the index.
        let index = node["Index Name"].as_str().unwrap_or_default();
        let concerned = large
            .iter()
            .find(|name| **name == whole || index.starts_with(**name));
        if let Some(name) = concerned {
            let per_loop = number("Actual Rows")
                + number("Rows Removed by Filter")
                + number("Rows Removed by Index Recheck");
            let touched = per_loop * number("Actual Loops").max(1.0);
            let mut report = |what: String| {
                found.push(Excess {
                    what,
                    query: self.query.clone(),
                });
            };
            if node["Node Type"] == "Seq Scan" && table == whole {
                report(format!("reads {name} from end to end"));
            } else if touched > at_most as f64 {
                report(format!(
                    "touches {touched} rows of {name} ({})",
                    node["Node Type"]
                ));
            }
        }
        for child in node["Plans"].as_array().into_iter().flatten() {
            self.visit(child, large, at_most, found);
        }
    }
}
