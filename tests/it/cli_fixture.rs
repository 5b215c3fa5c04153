//! What the scenarios of the command line share: running it, and reading what it prints.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;
use tests::{Bearer, Stack, workspace_root};

/// The command line of one person of one facility.
pub(crate) struct Weft<'a> {
    pub(crate) stack: &'a Stack,
    token: Bearer,
}

impl Weft<'_> {
    pub(crate) fn new<'a>(stack: &'a Stack, facility: &str, roles: &[&str]) -> Weft<'a> {
        Weft {
            stack,
            token: stack.token(facility, roles),
        }
    }

    /// That of another person than the usual one.
    pub(crate) fn with_subject<'a>(stack: &'a Stack, name: &str, facility: &str, roles: &[&str]) -> Weft<'a> {
        let mut claims = stack.issuer().claims(facility, roles);
        claims["sub"] = name.into();
        Weft {
            stack,
            token: stack.issuer().sign(&claims),
        }
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.stack.weft(&self.token).await;
        command.args(arguments);
        finished(command).await
    }

    /// What it prints as JSON.
    ///
    /// # Panics
    /// When it does not end with exit code 0.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        let output = self.run(&all).await;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            errors(&output)
        );
        serde_json::from_slice(&output.stdout).expect("it prints JSON")
    }
}

/// Runs a command without holding up the runtime.
pub(crate) async fn finished(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output
        .expect("waiting does not panic")
        .expect("the program is built")
}

/// What a command said on standard error.
pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One of the five files that the repository ships.
pub(crate) fn example(name: &str) -> String {
    workspace_root()
        .join("docs/examples/eclaimlink")
        .join(name)
        .display()
        .to_string()
}

/// The real orders that lie beside the repository and are not part of it.
pub(crate) fn online_retail() -> Option<Vec<PathBuf>> {
    let folder = workspace_root().join("../shared/data/online-retail");
    let entries = std::fs::read_dir(folder).ok()?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    Some(files)
}

/// An amount as Protobuf's JSON writes it, in the currency's hundredths.
pub(crate) fn minor(money: &Value) -> i64 {
    let units: i64 = money["units"]
        .as_str()
        .map_or(0, |units| units.parse().expect("units are a number"));
    units * 100 + money["nanos"].as_i64().unwrap_or(0) / 10_000_000
}

/// The balance of an account in a trial balance, in hundredths; zero when it has no entries.
pub(crate) fn balance(trial_balance: &Value, account: &str) -> i64 {
    let accounts = trial_balance["accounts"]
        .as_array()
        .expect("a trial balance lists accounts");
    let found = accounts
        .iter()
        .find(|balance| balance["account"] == format!("LEDGER_ACCOUNT_{account}"));
    found.map_or(0, |balance| minor(&balance["balance"]))
}
