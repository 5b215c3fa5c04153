//! Fixture for the mesh: hops as real processes, callers on the mesh's channel, and steady load.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use mesh::{Channel, ChannelOptions, Context, Policies};
use proto::order::v1::{CancelOrderRequest, ListOrdersRequest, order_service_client::OrderServiceClient};
use tests::{Hop, Hops, eventually, hop_service::ANSWERED_BY};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tonic::{Code, Status};
use uuid::Uuid;

pub(crate) const LIST: &str = "/order.v1.OrderService/ListOrders";

/// Lets only one scenario of the mesh run at a time.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// What a scenario asserts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Numbers of calls, answers, refusals and losses: the same on every machine, however busy. `make test`.
    Counts,
    /// Also durations. `make load`, on an otherwise idle machine.
    Times,
}

/// Takes a time measurement, which a busy machine may spoil, up to three times; one success is enough. `Err` is a
/// duration that was too long; other faults are asserted every time.
pub(crate) async fn measured<F>(mut measure: impl FnMut() -> F)
where
    F: Future<Output = anyhow::Result<()>>,
{
    for left in (0..3).rev() {
        match measure().await {
            Ok(()) => return,
            Err(missed) if left == 0 => panic!("three times: {missed:#}"),
            Err(missed) => println!("once more: {missed:#}"),
        }
    }
}

pub(crate) fn hops() -> Hops {
    Hops::new(env!("CARGO_BIN_EXE_hop"))
}

pub(crate) async fn three(hops: &Hops, settings: &[(&str, &str)]) -> [Hop; 3] {
    tokio::join!(hops.start(settings), hops.start(settings), hops.start(settings)).into()
}

pub(crate) fn policies() -> &'static Policies {
    static POLICIES: LazyLock<Policies> =
        LazyLock::new(|| Policies::from_annotated_descriptors(proto::SCHEMA).unwrap());
    &POLICIES
}

pub(crate) fn target<'a>(hops: impl IntoIterator<Item = &'a Hop>) -> String {
    let uris: Vec<_> = hops
        .into_iter()
        .map(|hop| format!("http://{}", hop.address()))
        .collect();
    format!("static:{}", uris.join(","))
}

/// A client that calls hops over one channel.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) channel: Channel,
    bearer: Arc<str>,
    timeout: Option<Duration>,
}

impl Caller {
    pub(crate) fn new<'a>(hops: &Hops, called: impl IntoIterator<Item = &'a Hop>) -> Caller {
        Caller::with(hops, ChannelOptions::new(target(called), "order", "tests"))
    }

    pub(crate) fn with(hops: &Hops, options: ChannelOptions) -> Caller {
        Caller::by(hops, options, policies())
    }

    pub(crate) fn by(hops: &Hops, options: ChannelOptions, policies: &Policies) -> Caller {
        Caller {
            channel: Channel::connect(options, policies).unwrap(),
            bearer: hops.bearer(),
            timeout: None,
        }
    }

    pub(crate) fn within(mut self, timeout: Duration) -> Caller {
        self.timeout = Some(timeout);
        self
    }

    /// Makes a call without side effects, of normal criticality.
    pub(crate) async fn list(&self) -> Result<(), Status> {
        self.answered_by().await.map(drop)
    }

    /// Makes the same call and returns the address of the hop that answered.
    pub(crate) async fn answered_by(&self) -> Result<String, Status> {
        let request = self.context().request(ListOrdersRequest::default());
        let answer = self.client().list_orders(request).await?;
        let hop = answer.metadata().get(ANSWERED_BY).unwrap();
        Ok(hop.to_str().unwrap().to_owned())
    }

    /// Makes a call with effects and a request id, of high criticality.
    pub(crate) async fn cancel(&self) -> Result<(), Status> {
        let request = CancelOrderRequest {
            request_id: Uuid::new_v4().to_string(),
            id: Uuid::new_v4().to_string(),
            ..CancelOrderRequest::default()
        };
        let request = self.context().request(request);
        self.client().cancel_order(request).await.map(drop)
    }

    /// Waits until this many endpoints are connected and available.
    pub(crate) async fn connected(&self, count: usize) {
        eventually(Duration::from_secs(10), || async {
            let endpoints = self.channel.snapshot().endpoints;
            endpoints.iter().filter(|endpoint| endpoint.connected).count() == count
        })
        .await;
    }

    fn client(&self) -> OrderServiceClient<Channel> {
        OrderServiceClient::new(self.channel.clone())
    }

    fn context(&self) -> Context {
        let context = Context::new().with_bearer(Arc::clone(&self.bearer));
        match self.timeout {
            Some(timeout) => context.with_timeout(timeout),
            None => context,
        }
    }
}

/// The result of one call of a load.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Due time, since the start of the load. Delays of the machine count as the call's time.
    pub(crate) due: Duration,
    pub(crate) took: Duration,
    pub(crate) outcome: Result<(), Status>,
}

/// Calls at a steady rate, independent of earlier calls.
pub(crate) struct Load {
    pub(crate) began: Instant,
    stop: tokio::sync::oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Vec<Sample>>,
}

impl Load {
    pub(crate) fn start<F, R>(per_second: u32, call: F) -> Load
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let began = Instant::now();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let running = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut calls = JoinSet::new();
            let mut samples = Vec::new();
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    _ = ticks.tick() => {}
                }
                let (due, answer) = (began.elapsed(), call());
                calls.spawn(async move {
                    let outcome = answer.await;
                    let took = began.elapsed() - due;
                    Sample { due, took, outcome }
                });
                while let Some(sample) = calls.try_join_next() {
                    samples.push(sample.unwrap());
                }
            }
            samples.extend(calls.join_all().await);
            samples
        });
        Load { began, stop, running }
    }

    /// Stops the load and waits for the last answer.
    pub(crate) async fn stop(self) -> Samples {
        drop(self.stop);
        Samples(self.running.await.unwrap())
    }

    pub(crate) async fn go_on_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// Results of a load's calls.
#[derive(Clone)]
pub(crate) struct Samples(pub(crate) Vec<Sample>);

impl Samples {
    pub(crate) fn since(&self, due: Duration) -> Samples {
        Samples(
            self.0
                .iter()
                .filter(|sample| sample.due >= due)
                .cloned()
                .collect(),
        )
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn good(&self) -> usize {
        self.0.iter().filter(|sample| sample.outcome.is_ok()).count()
    }

    pub(crate) fn success(&self) -> f64 {
        self.good() as f64 / self.len().max(1) as f64
    }

    pub(crate) fn failures(&self) -> BTreeMap<String, usize> {
        let mut failures = BTreeMap::new();
        for sample in &self.0 {
            if let Err(status) = &sample.outcome {
                let text = format!("{:?}: {}", status.code(), status.message());
                *failures.entry(text).or_default() += 1;
            }
        }
        failures
    }

    pub(crate) fn count(&self, code: Code) -> usize {
        let of = |sample: &&Sample| matches!(&sample.outcome, Err(status) if status.code() == code);
        self.0.iter().filter(of).count()
    }

    /// Latency quantile of the successful calls.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut took: Vec<_> = self
            .0
            .iter()
            .filter(|sample| sample.outcome.is_ok())
            .map(|sample| sample.took)
            .collect();
        took.sort_unstable();
        assert!(!took.is_empty(), "no call went well: {:?}", self.failures());
        took[((took.len() - 1) as f64 * share) as usize]
    }
}
