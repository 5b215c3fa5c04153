//! Endpoints without servers, whose calls end as a test says, in paused time.

use http::{HeaderValue, uri::Scheme};
use tokio::{task::JoinHandle, time::sleep};

use super::*;
use crate::{
    discovery::Address,
    endpoint::{
        ChannelInfo,
        breaker::{Admission, Ejections, State},
        concurrency_limit::ConcurrencyLimit,
        stats::{Blame, Stats, Verdict},
    },
    outlier_detection::{FailurePercentageEjection, SuccessRateEjection},
    telemetry::Metrics,
};

const SECOND: Duration = Duration::from_secs(1);

struct Endpoints {
    stats: Vec<Arc<Stats>>,
    ejections: Arc<Ejections>,
    sweeps: JoinHandle<()>,
    _publish: watch::Sender<Arc<Published>>,
}

impl Endpoints {
    async fn new(count: u16, policy: Option<OutlierDetection>) -> Endpoints {
        Endpoints::of_target(count, policy, "static:test").await
    }

    async fn of_target(count: u16, policy: Option<OutlierDetection>, target: &str) -> Endpoints {
        let ejections = Arc::new(Ejections::new(policy.map(Arc::new)));
        ejections.set_connected(count.into());
        let channel_info = Arc::new(ChannelInfo {
            user_agent: HeaderValue::from_static("test"),
            ping_interval: SECOND,
            metrics: Arc::new(Metrics::new("test", target)),
        });
        let known = |port: u16| {
            let address = Address {
                scheme: Scheme::HTTP,
                authority: "a:1".parse().unwrap(),
                host: Arc::from("a"),
                port: Some(port),
                zone: None,
                labels: crate::discovery::labels::Labels::default(),
            };
            let stats = Stats::new(
                port.into(),
                address.clone(),
                Arc::clone(&channel_info),
                Arc::new(ConcurrencyLimit::new(1_000, 1)),
                Arc::clone(&ejections),
            );
            KnownAddress {
                address,
                stats: Arc::new(stats),
                connected: true,
                failure: None,
            }
        };
        let addresses: Vec<_> = (0..count).map(known).collect();
        let stats = addresses.iter().map(|known| Arc::clone(&known.stats)).collect();
        let (publish, published) = watch::channel(Arc::new(Published {
            addresses,
            ..Published::default()
        }));
        let sweeps = tokio::spawn(run(ejections.subscribe(), published));
        let endpoints = Endpoints {
            stats,
            ejections,
            sweeps,
            _publish: publish,
        };
        endpoints.wait(Duration::ZERO).await;
        endpoints
    }

    /// Lets time pass, and the sweep run that is due at its end.
    async fn wait(&self, time: Duration) {
        sleep(time).await;
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }

    async fn set_policy(&self, policy: Option<OutlierDetection>) {
        self.ejections.set_outlier_detection(policy.map(Arc::new));
        self.wait(Duration::ZERO).await;
    }

    /// Of each hundred calls the given number succeeds, the failures evenly among them.
    fn call(&self, endpoint: usize, calls: u32, successes: u32) {
        for call in 0..calls {
            let mut in_flight = self.stats[endpoint].begin(Blame::default(), None).unwrap();
            let failed = (call + 1) * (100 - successes) / 100 > call * (100 - successes) / 100;
            in_flight.finish(if failed { Verdict::Bad } else { Verdict::Good });
        }
    }

    /// The same number of calls to each of the first endpoints.
    fn call_each(&self, calls: u32, successes: &[u32]) {
        for (endpoint, successes) in successes.iter().enumerate() {
            self.call(endpoint, calls, *successes);
        }
    }

    fn call_all(&self, successes: &[u32]) {
        self.call_each(100, successes);
    }

    fn ejected(&self) -> Vec<usize> {
        let now = Instant::now();
        let denied = |stats: &Arc<Stats>| stats.admission_and_score(now).0 != Admission::Allowed;
        (0..self.stats.len())
            .filter(|endpoint| denied(&self.stats[*endpoint]))
            .collect()
    }

    /// The reason of an ejection, and how long it lasts from now on. Seconds.
    fn ejection(&self, endpoint: usize) -> (String, u64) {
        match self.stats[endpoint].lock().breaker.state() {
            State::Ejected { reason, until, .. } => {
                let left = until.saturating_duration_since(Instant::now());
                (reason.clone(), left.as_secs_f64().round() as u64)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn policy() -> OutlierDetection {
    OutlierDetection {
        source: "loadBalancingConfig[0].outlier_detection_experimental".to_owned(),
        interval: 10 * SECOND,
        base_ejection_time: 30 * SECOND,
        max_ejection_time: 300 * SECOND,
        max_ejection_percent: None,
        success_rate: None,
        failure_percentage: None,
    }
}

fn by_success_rate() -> OutlierDetection {
    OutlierDetection {
        success_rate: Some(SuccessRateEjection::default()),
        ..policy()
    }
}

/// Ejects every endpoint of whose calls more than 30 % fail.
fn by_failures(enforcement_percentage: u32) -> OutlierDetection {
    OutlierDetection {
        failure_percentage: Some(FailurePercentageEjection {
            threshold: 30,
            enforcement_percentage,
            ..FailurePercentageEjection::default()
        }),
        ..policy()
    }
}

const ONE_OF_SIX: [u32; 6] = [99, 99, 60, 99, 99, 99];

#[tokio::test(start_paused = true)]
async fn an_endpoint_with_60_percent_success_among_five_with_99_is_ejected_and_comes_back() {
    let endpoints = Endpoints::new(6, Some(by_success_rate())).await;
    endpoints.call_all(&ONE_OF_SIX);
    endpoints.wait(9 * SECOND).await;
    assert!(endpoints.ejected().is_empty(), "the interval is not over");
    endpoints.wait(SECOND).await;
    assert_eq!(endpoints.ejected(), [2]);
    let reason = "success rate 60 %, mean 92.5 %".to_owned();
    assert_eq!(endpoints.ejection(2), (reason, 30));
    endpoints.wait(29 * SECOND).await;
    assert_eq!(endpoints.ejected(), [2]);
    assert_eq!(endpoints.stats[2].lock().breaker.begin_probe(), None);
    endpoints.wait(SECOND).await;
    assert!(endpoints.ejected().is_empty(), "readmitted without a probe");
    let warmth = endpoints.stats[2].lock().load.warmth(Instant::now());
    assert!(warmth < 1.0, "it is eased in like a new one");
}

#[tokio::test(start_paused = true)]
async fn the_default_breaker_ejects_no_such_endpoint() {
    let endpoints = Endpoints::new(6, None).await;
    for _ in 0..10 {
        endpoints.call_all(&ONE_OF_SIX);
        endpoints.wait(10 * SECOND).await;
        assert!(endpoints.ejected().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_ejections_last_longer_and_good_intervals_shorten_the_next() {
    let endpoints = Endpoints::new(6, Some(by_success_rate())).await;
    let eject = async || {
        endpoints.call_all(&ONE_OF_SIX);
        endpoints.wait(10 * SECOND).await;
        endpoints.ejection(2).1
    };
    for expected in [30, 60, 90] {
        let lasting = eject().await;
        assert_eq!(lasting, expected);
        endpoints.wait(Duration::from_secs(lasting)).await;
        assert!(endpoints.ejected().is_empty());
    }
    // Two of the three are forgotten, the next is the second.
    endpoints.wait(20 * SECOND).await;
    assert_eq!(eject().await, 60);
    endpoints.wait(60 * SECOND).await;
    // However many there are, five minutes are the limit.
    for _ in 0..12 {
        let lasting = eject().await;
        assert!(lasting <= 300);
        endpoints.wait(Duration::from_secs(lasting)).await;
    }
    assert_eq!(eject().await, 300);
}

#[tokio::test(start_paused = true)]
async fn no_more_endpoints_are_ejected_than_the_configured_share_and_the_worst_are_first() {
    let bad = [45, 44, 43, 42, 99, 99, 50, 40, 60, 99];
    for (max_ejection_percent, ejected) in [
        (None, vec![7]),
        (Some(0), vec![7]),
        (Some(39), vec![2, 3, 7]),
        (Some(100), vec![0, 1, 2, 3, 6, 7, 8]),
    ] {
        let policy = OutlierDetection {
            max_ejection_percent,
            ..by_failures(100)
        };
        let endpoints = Endpoints::new(10, Some(policy)).await;
        endpoints.call_all(&bad);
        endpoints.wait(10 * SECOND).await;
        assert_eq!(endpoints.ejected(), ejected, "{max_ejection_percent:?}");
    }
    let all = OutlierDetection {
        max_ejection_percent: Some(100),
        ..by_failures(100)
    };
    let endpoints = Endpoints::new(5, Some(all)).await;
    endpoints.call_all(&[20; 5]);
    endpoints.wait(10 * SECOND).await;
    assert_eq!(endpoints.ejected().len(), 4, "one always stays in use");
}

#[tokio::test(start_paused = true)]
async fn the_configured_share_limits_failures_in_a_row_too_and_half_is_its_default() {
    for (max_ejection_percent, ejected) in [(None, 5), (Some(20), 2), (Some(80), 8)] {
        let policy = OutlierDetection {
            max_ejection_percent,
            ..by_success_rate()
        };
        let endpoints = Endpoints::new(10, Some(policy)).await;
        (0..10).for_each(|endpoint| endpoints.call(endpoint, 7, 0));
        assert_eq!(endpoints.ejected().len(), ejected, "{max_ejection_percent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_decides_in_place_of_the_failure_rate() {
    let endpoints = Endpoints::new(5, Some(by_success_rate())).await;
    endpoints.call(0, 60, 40);
    assert!(endpoints.ejected().is_empty());
    endpoints.set_policy(Some(policy())).await;
    endpoints.call(0, 1, 0);
    assert_eq!(
        endpoints.ejected(),
        [0],
        "a policy without an algorithm replaces nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_the_breaker_has_ejected_are_left_to_its_probe() {
    let mut policy = by_failures(100);
    policy.base_ejection_time = 1_000 * SECOND;
    policy.max_ejection_time = 1_000 * SECOND;
    let endpoints = Endpoints::new(5, Some(policy)).await;
    endpoints.call_all(&[60, 99, 99, 99, 99]);
    endpoints.wait(9 * SECOND).await;
    endpoints.call(0, 7, 0);
    assert_eq!(endpoints.ejection(0).0, "7 failures in a row");
    endpoints.wait(2 * SECOND).await;
    let now = Instant::now();
    assert_eq!(endpoints.stats[0].admission_and_score(now).0, Admission::ProbeDue);
}

#[tokio::test(start_paused = true)]
async fn too_few_calls_or_endpoints_eject_none() {
    let endpoints = Endpoints::new(6, Some(by_success_rate())).await;
    endpoints.call_each(99, &ONE_OF_SIX);
    endpoints.wait(10 * SECOND).await;
    assert!(endpoints.ejected().is_empty(), "99 calls in one interval");
    endpoints.call_each(99, &ONE_OF_SIX);
    endpoints.wait(10 * SECOND).await;
    assert!(
        endpoints.ejected().is_empty(),
        "calls of two intervals do not add up"
    );
    endpoints.call_each(200, &ONE_OF_SIX[2..]);
    endpoints.wait(10 * SECOND).await;
    assert!(endpoints.ejected().is_empty(), "four endpoints with calls enough");
}

mod ejection_metrics;
mod policy_changes;
