//! The Python event reader that `docs/events.md` shows.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use tests::workspace_root;
use uuid::Uuid;

use crate::events_fixture::Fixture;

const PROTOS: [&str; 4] = [
    "order/v1/events.proto",
    "events/v1/options.proto",
    "google/type/money.proto",
    "mesh/v1/field.proto",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_python_reader_sees_each_event_once_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start().await;
    fixture.publish();
    let first = [Uuid::new_v4(), Uuid::new_v4()];
    for aggregate in first {
        fixture.append(aggregate, [1]).await;
    }
    generate(folder.path());
    let seen: BTreeSet<_> = read(folder.path(), fixture.nats.url(), 2)
        .await
        .into_iter()
        .collect();
    assert_eq!(seen, first.map(|order| order.to_string()).into());

    let later = Uuid::new_v4();
    fixture.append(later, [1]).await;
    let seen = read(folder.path(), fixture.nats.url(), 1).await;
    assert_eq!(seen, [later.to_string()]);
}

fn python() -> Command {
    let mut python = Command::new(workspace_root().join(".tools/python/bin/python"));
    python.current_dir(workspace_root());
    python
}

/// Generates the code as documented, but into a folder of the test.
fn generate(folder: &Path) {
    let mut protoc = python();
    protoc.args([
        "-m",
        "grpc_tools.protoc",
        "-I",
        "proto",
        "-I",
        "proto/third_party",
    ]);
    protoc
        .arg(format!("--python_out={}", folder.display()))
        .args(PROTOS);
    assert!(protoc.status().expect("`make setup` installs Python").success());
}

/// Reads the orders that the reader prints until there are this many.
async fn read(folder: &Path, server: &str, count: usize) -> Vec<String> {
    let mut reader = python();
    reader
        .current_dir(folder)
        .env("PYTHONPATH", folder)
        .arg(workspace_root().join("docs/examples/read_events.py"))
        .arg(server)
        .stdout(Stdio::piped());
    let mut reader = Reader(reader.spawn().unwrap());
    let lines = BufReader::new(reader.0.stdout.take().unwrap()).lines();
    let reading = tokio::task::spawn_blocking(move || {
        let orders = lines.map(|line| line.unwrap().split(' ').next_back().unwrap().to_owned());
        orders.take(count).collect()
    });
    reading.await.unwrap()
}

/// A running reader, killed when it is dropped.
struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
