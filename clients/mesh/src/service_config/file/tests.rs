use std::{fs, path::Path, time::Duration};

use tokio::time::sleep;

use crate::{Channel, ChannelOptions, Error, MethodPolicy, Policies};

fn config(timeout: &str) -> String {
    format!(r#"{{"methodConfig": [{{"name": [{{}}], "timeout": "{timeout}"}}]}}"#)
}

fn connect(file: &Path) -> Result<Channel, Error> {
    let mut options = ChannelOptions::new("static:http://127.0.0.1:1", "payment", "test");
    options.service_config_file = Some(file.to_owned());
    let policy = MethodPolicy::new(Duration::from_secs(1));
    Channel::connect(
        options,
        &Policies::from_methods([("/a.B/Get".to_owned(), policy)]),
    )
}

fn timeout(channel: &Channel) -> u64 {
    channel.snapshot().methods[0].timeout_ms
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_applied_and_an_invalid_one_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payment.json");
    fs::write(&file, config("7s")).unwrap();
    let channel = connect(&file).unwrap();
    assert_eq!(timeout(&channel), 7_000);

    // A distinct time, so that the change is visible on file systems with a coarse clock.
    let replace = |content: &str, at: u64| {
        fs::write(&file, content).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(at);
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    replace(&config("8s"), 1_000);
    while timeout(&channel) != 8_000 {
        sleep(Duration::from_millis(100)).await;
    }
    replace(r#"{"methodConfig": [{"name": [{}], "timeOut": "9s"}]}"#, 2_000);
    for _ in 0..30 {
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(timeout(&channel), 8_000);
    // The rest of it is written within the same tick of the file system's clock.
    replace(&config("9s"), 2_000);
    while timeout(&channel) != 9_000 {
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_invalid_file_fails_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payment.json");
    let error = connect(&file).unwrap_err();
    assert!(matches!(error, Error::ServiceConfigFile { .. }), "{error}");
    fs::write(&file, config("soon")).unwrap();
    let error = connect(&file).unwrap_err();
    assert!(matches!(error, Error::ServiceConfig { .. }), "{error}");
}

#[tokio::test]
async fn a_file_beside_a_service_config_is_an_error() {
    let mut options = ChannelOptions::new("static:http://127.0.0.1:1", "payment", "test");
    options.service_config_file = Some("payment.json".into());
    options.tuning.service_config = Some("{}".to_owned());
    let error = Channel::connect(options, &Policies::default()).unwrap_err();
    assert!(error.to_string().contains("`service_config_file`"), "{error}");
}
