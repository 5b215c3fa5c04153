use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderValue, uri::Scheme};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::DuplexStream, time::sleep};

use super::*;
use crate::{
    connection::activity::Activity,
    discovery::{Address, labels::Labels},
    endpoint::{
        ChannelInfo,
        breaker::Ejections,
        concurrency_limit::ConcurrencyLimit,
        stats::{Stats, Verdict},
    },
    telemetry::Metrics,
};

const MS: Duration = Duration::from_millis(1);

/// Endpoints without a server, numbered from 0, each in its zone.
struct Channel {
    endpoints: Vec<Arc<Endpoint>>,
    method: Method,
    probe_schedule: ProbeSchedule,
    _connections: Vec<(DuplexStream, Box<dyn Send>)>,
}

impl Channel {
    async fn new(zones: &[Option<&str>], cap: usize) -> Channel {
        let concurrency_limit = Arc::new(ConcurrencyLimit::new(cap, 1));
        let ejections = Arc::new(Ejections::default());
        ejections.set_connected(zones.len());
        let channel_info = Arc::new(ChannelInfo {
            user_agent: HeaderValue::from_static("test"),
            ping_interval: MS,
            metrics: Arc::new(Metrics::new("test", "static:test")),
        });
        let mut channel = Channel {
            endpoints: Vec::new(),
            method: Method::new("test.Service/Method", None),
            probe_schedule: ProbeSchedule::default(),
            _connections: Vec::new(),
        };
        for (number, zone) in zones.iter().enumerate() {
            let (near, far) = tokio::io::duplex(1024);
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
                    .await
                    .unwrap();
            let address = Address {
                scheme: Scheme::HTTP,
                authority: "a:1".parse().unwrap(),
                host: Arc::from("a"),
                port: Some(1),
                zone: zone.map(Arc::from),
                labels: Labels::default(),
            };
            let stats = Stats::new(
                number as u64,
                address.clone(),
                Arc::clone(&channel_info),
                Arc::clone(&concurrency_limit),
                Arc::clone(&ejections),
            );
            let endpoint = Endpoint::new(
                address,
                Arc::new(stats),
                (sender, Arc::new(Activity::new(true)), None),
                Arc::clone(&channel_info),
            );
            channel.endpoints.push(Arc::new(endpoint));
            channel._connections.push((far, Box::new(connection)));
        }
        channel
    }

    fn choose(&self, zone: Option<&str>, tried: &Tried) -> (u64, InFlight) {
        let criteria = Criteria {
            method: &self.method,
            tried,
            blame: Blame::default(),
            first: true,
            usable_only: false,
            zone,
            probe_schedule: &self.probe_schedule,
        };
        match choose(&self.endpoints.iter(), criteria) {
            Choice::Selected(endpoint, in_flight) => (endpoint.stats.id(), in_flight),
            other => panic!("{other:?}"),
        }
    }

    /// Six callers make a hundred calls each; endpoint `n` answers as `answers[n]` says. Returns each endpoint's
    /// share.
    async fn share(&self, answers: &[(Duration, Verdict)]) -> Vec<f64> {
        let calls = (0..6).map(|_| async {
            let mut counts = vec![0_u32; answers.len()];
            for _ in 0..100 {
                let (endpoint, mut in_flight) = self.choose(None, &Tried::default());
                let (time, verdict) = answers[endpoint as usize];
                counts[endpoint as usize] += 1;
                sleep(time).await;
                in_flight.record_headers();
                in_flight.finish(verdict);
            }
            counts
        });
        let counts = join_all(calls).await;
        let sum = |endpoint: usize| counts.iter().map(|counts| counts[endpoint]).sum::<u32>();
        (0..answers.len())
            .map(|endpoint| f64::from(sum(endpoint)) / 600.0)
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn equal_endpoints_share_and_a_slow_one_gets_little() {
    let three = [None; 3];
    let quick = (10 * MS, Verdict::Good);
    let even = Channel::new(&three, 100).await.share(&[quick; 3]).await;
    assert!(even.iter().all(|share| (0.2..0.5).contains(share)), "{even:?}");
    let slow = (100 * MS, Verdict::Good);
    let shares = Channel::new(&three, 100).await.share(&[slow, quick, quick]).await;
    assert!(shares[0] < 0.1, "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_at_once_attracts_no_load() {
    let channel = Channel::new(&[None; 3], 100).await;
    let quick = (10 * MS, Verdict::Good);
    let shares = channel.share(&[(MS, Verdict::Bad), quick, quick]).await;
    assert!(shares[0] < 0.05, "{shares:?}");
    // Refusals raise its cost, and do not eject it.
    let channel = Channel::new(&[None; 3], 100).await;
    let shares = channel.share(&[(MS, Verdict::Busy), quick, quick]).await;
    assert!(shares[0] < 0.2, "{shares:?}");
    assert_eq!(
        channel.endpoints[0].stats.admission_and_score(Instant::now()).0,
        Admission::Allowed
    );
}

/// Rounds of `calls` at once from zone x; each endpoint accepts as many of them as `capacity` says. Returns for
/// each round how many calls each endpoint got and how many were refused.
async fn rounds(
    channel: &Channel,
    calls: usize,
    capacity: &[usize],
    rounds: usize,
) -> Vec<(Vec<usize>, usize)> {
    let mut seen = Vec::new();
    for _ in 0..rounds {
        let tried = Tried::default();
        let mut begun: Vec<_> = (0..calls).map(|_| channel.choose(Some("x"), &tried)).collect();
        tokio::time::advance(10 * MS).await;
        let mut counts = vec![0; capacity.len()];
        let mut refused = 0;
        for (endpoint, in_flight) in &mut begun {
            let count = &mut counts[*endpoint as usize];
            *count += 1;
            in_flight.record_headers();
            let full = *count > capacity[*endpoint as usize];
            refused += usize::from(full);
            in_flight.finish(if full { Verdict::Busy } else { Verdict::Good });
        }
        drop(begun);
        tokio::time::advance(100 * MS).await;
        seen.push((counts, refused));
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn calls_that_the_own_zone_refuses_go_to_the_others() {
    let channel = Channel::new(&[Some("x"), Some("y"), Some("y")], 512).await;
    let seen = rounds(&channel, 100, &[57, 57, 57], 40).await;
    let refused: usize = seen[5..].iter().map(|(_, refused)| refused).sum();
    assert!(refused <= 35 * 3, "{refused} of 3500: {seen:?}");
    let own: usize = seen[5..].iter().map(|(counts, _)| counts[0]).sum();
    assert!(
        own > 35 * 33,
        "the own zone still gets more than an even share: {seen:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_own_zone_that_accepts_everything_gets_everything() {
    let channel = Channel::new(&[Some("x"), Some("y"), Some("y")], 512).await;
    let seen = rounds(&channel, 100, &[512, 512, 512], 10).await;
    assert_eq!(seen[0].0.iter().sum::<usize>(), 100);
    assert!(seen[4..].iter().all(|(counts, _)| counts[0] == 100), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_own_zone_comes_first_until_it_is_four_fifths_full() {
    let channel = Channel::new(&[Some("a"), Some("b")], 10).await;
    let mut begun = Vec::new();
    for _ in 0..8 {
        let (endpoint, in_flight) = channel.choose(Some("a"), &Tried::default());
        assert_eq!(endpoint, 0);
        begun.push(in_flight);
    }
    let mut others = (0..8).map(|_| channel.choose(Some("a"), &Tried::default()));
    assert!(others.any(|(endpoint, _)| endpoint == 1));
}

#[tokio::test(start_paused = true)]
async fn endpoints_already_tried_are_chosen_last() {
    let channel = Channel::new(&[None; 3], 10).await;
    let tried = Tried::default();
    for _ in 0..3 {
        let (endpoint, in_flight) = channel.choose(None, &tried);
        assert!(!tried.contains(endpoint));
        tried.add(endpoint);
        drop(in_flight);
    }
    channel.choose(None, &tried);
}

mod routed;
mod slow;
