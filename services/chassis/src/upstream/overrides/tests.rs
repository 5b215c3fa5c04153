use std::{fs, path::Path};

use crate::{Upstream, server::tests::fixture::process, upstream::Error};

fn config(timeout: &str) -> String {
    format!(r#"{{"methodConfig": [{{"name": [{{}}], "timeout": "{timeout}"}}]}}"#)
}

fn upstream(file: &Path) -> Upstream {
    Upstream {
        service_config_file: Some(file.to_owned()),
        ..Upstream::local(1)
    }
}

fn timeout(channel: &mesh::Channel) -> u64 {
    channel.snapshot().methods[0].timeout_ms
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_applied_and_an_invalid_one_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payment.json");
    fs::write(&file, config("7s")).unwrap();
    let process = process();
    let channel = process.channel("payment", &upstream(&file)).unwrap();
    assert_eq!(timeout(&channel), 7_000);

    // A distinct time, so that the change is visible on file systems with a coarse clock.
    let replace = |content: &str, at: u64| {
        fs::write(&file, content).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    replace(&config("8s"), 1_000);
    while timeout(&channel) != 8_000 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    replace(r#"{"methodConfig": [{"name": [{}], "timeOut": "9s"}]}"#, 2_000);
    for _ in 0..30 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(timeout(&channel), 8_000);
    replace(&config("9s"), 3_000);
    while timeout(&channel) != 9_000 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    process.shutdown.cancel();
}

#[tokio::test]
async fn an_invalid_file_fails_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payment.json");
    let error = process().channel("payment", &upstream(&file)).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
    fs::write(&file, config("soon")).unwrap();
    let error = process().channel("payment", &upstream(&file)).unwrap_err();
    assert!(matches!(error, Error::Channel { .. }), "{error}");
}
