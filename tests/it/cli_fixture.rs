//! Fixture for the command line: runs it and reads its output.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;
use tests::{Bearer, Stack, workspace_root};

/// The command line with a token of one user of one facility.
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

    /// As [`Weft::new`], with a given subject in the token.
    pub(crate) fn with_subject<'a>(stack: &'a Stack, name: &str, facility: &str, roles: &[&str]) -> Weft<'a> {
        let mut claims = stack.issuer().claims(facility, roles);
        claims["sub"] = name.into();
        Weft {
            stack,
            token: stack.issuer().sign(&claims),
        }
    }

    /// Runs a command and waits for its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.stack.weft(&self.token).await;
        command.args(arguments);
        finished(command).await
    }

    /// Runs a command and parses its JSON output.
    ///
    /// # Panics
    /// When it does not exit with 0.
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

/// Runs a command without blocking the runtime.
pub(crate) async fn finished(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output
        .expect("waiting does not panic")
        .expect("the program is built")
}

/// The standard error of a command.
pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The path of one of the five files that the repository ships.
pub(crate) fn example(name: &str) -> String {
    workspace_root()
        .join("docs/examples/eclaimlink")
        .join(name)
        .display()
        .to_string()
}

/// The real orders of the data set, which is not part of the repository.
pub(crate) fn online_retail() -> Option<Vec<PathBuf>> {
    let folder = workspace_root().join("../shared/data/online-retail");
    let entries = std::fs::read_dir(folder).ok()?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    Some(files)
}

/// An amount in Protobuf JSON, in hundredths of the currency.
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
