//! Transient conditions at a start are no warnings in a service's log; lasting ones and lost endpoints are.

use std::time::Duration;

use serde_json::Value;
use tests::{Options, Service, Stack, eventually};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const LONG: Duration = Duration::from_secs(60);
/// Time that an endpoint may take to start without a warning.
const TOLERATED: time::Duration = time::Duration::seconds(10);

/// A line of the order service's log about an endpoint of another service.
#[derive(Clone, Debug)]
struct EndpointLine {
    at: OffsetDateTime,
    warns: bool,
    endpoint: String,
}

fn endpoint_lines(stack: &Stack) -> Vec<EndpointLine> {
    let log = stack.log(Service::Order);
    let lines = log.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["message"]
            .as_str()?
            .starts_with("endpoint takes no calls")
            .then(|| EndpointLine {
                at: OffsetDateTime::parse(line["time"].as_str().unwrap(), &Rfc3339).unwrap(),
                warns: line["level"] == "WARN",
                endpoint: line["server.address"].as_str().unwrap().to_owned(),
            })
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_starting_endpoint_is_logged_as_a_warning_after_ten_seconds_and_a_lost_one_at_once() {
    let options = Options::default().only(&[Service::Order, Service::Payment]);
    let stack = Stack::with(options).await;
    let late = eventually(LONG, || async {
        let lines = endpoint_lines(&stack);
        lines
            .iter()
            .find(|line| line.warns)
            .cloned()
            .ok_or_else(|| format!("{lines:?}"))
    })
    .await;
    let before = endpoint_lines(&stack);
    let first = before.iter().find(|line| line.endpoint == late.endpoint).unwrap();
    assert!(!first.warns && late.at - first.at >= TOLERATED, "{before:?}");

    stack.kill9(Service::Payment);
    let lost = eventually(LONG, || async {
        let lines = endpoint_lines(&stack);
        lines
            .iter()
            .find(|line| line.warns && line.endpoint != late.endpoint)
            .cloned()
            .ok_or_else(|| format!("{lines:?}"))
    })
    .await;
    let count_below_warning = |all: &[EndpointLine]| {
        all.iter()
            .filter(|line| !line.warns && line.endpoint == lost.endpoint)
            .count()
    };
    assert_eq!(
        count_below_warning(&endpoint_lines(&stack)),
        count_below_warning(&before),
        "a lost endpoint is logged as if it were starting"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_collector_logs_no_error() {
    let stack = Stack::start().await;
    for service in Service::ALL {
        let log = stack.log(service);
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (errors, others): (Vec<_>, Vec<_>) = lines.partition(|line| line["level"] == "ERROR");
        assert!(!others.is_empty(), "{service} logs nothing");
        assert!(errors.is_empty(), "{service}: {errors:?}");
    }
}
