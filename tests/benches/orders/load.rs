//! The load: an open loop at a fixed rate, and closed loops with a number of callers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::uri::PathAndQuery;
use prost::Message as _;
use proto::order::v1::{OrderState, PlaceOrderResponse};
use tests::raw_codec::Raw;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::TaskTracker;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    requests::{Expected, Request, Requests},
    system::System,
};

const METHOD: &str = "/order.v1.OrderService/PlaceOrder";
/// The deadline of a call, as the contract has it.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long a caller of the closed loop waits after a refusal.
const AFTER_REFUSAL: Duration = Duration::from_millis(20);
/// The open loop lets at most the arrivals of this time be unfinished; those beyond are dropped.
const UNFINISHED: Duration = Duration::from_secs(2);
const UNFINISHED_CALLS: std::ops::RangeInclusive<usize> = 64..=4096;
/// Header that marks a repeated answer.
const REPLAYED: &str = "idempotency-replayed";

/// The load on one system.
pub(crate) struct Load {
    channels: Vec<Channel>,
    next: AtomicUsize,
    requests: Requests,
    sum: Mutex<Sum>,
}

/// Results of all requests since the system started, without repetitions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) fulfilled: i64,
    pub(crate) rejected: i64,
    /// Failed or PENDING: an order may exist, and may have been fulfilled.
    pub(crate) unknown: i64,
}

/// Results of the calls of one phase.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// Latency in microseconds of every call with the expected answer.
    pub(crate) latency: Histogram<u64>,
    pub(crate) fulfilled: u64,
    /// Those of them that ended within the phase.
    pub(crate) in_time: u64,
    pub(crate) declined: u64,
    pub(crate) invalid: u64,
    /// Repetitions that got the same answer, marked as one.
    pub(crate) repeated: u64,
    /// RESOURCE_EXHAUSTED: nothing was started.
    pub(crate) refused: u64,
    /// Arrivals of the open loop that were not sent, because too many were unfinished.
    pub(crate) dropped: u64,
    /// All other failures, by reason.
    pub(crate) errors: BTreeMap<String, u64>,
    /// The length of the phase, without the time that the last calls took beyond it.
    pub(crate) length: Duration,
}

/// What to do when an arrival is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDrop {
    Stop,
    Count,
}

enum Outcome {
    Fulfilled,
    Declined,
    Invalid,
    Repeated,
    Refused,
    Failed(String),
}

impl Load {
    /// Connects to the system's order service.
    pub(crate) async fn connect(
        system: &System,
        requests: Requests,
        connections: u16,
    ) -> anyhow::Result<Arc<Load>> {
        let endpoint = Endpoint::from_shared(system.order_url.clone())?
            .tcp_nodelay(true)
            .http2_adaptive_window(false);
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(endpoint.connect().await?);
        }
        Ok(Arc::new(Load {
            channels,
            next: AtomicUsize::new(0),
            requests,
            sum: Mutex::default(),
        }))
    }

    /// Results of all requests so far.
    pub(crate) fn sum(&self) -> Sum {
        *self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `callers` make calls without a pause, each with one request at a time.
    pub(crate) async fn closed(self: &Arc<Self>, callers: u32, length: Duration) -> Answers {
        let phase = Arc::new(Phase::new(length));
        let running = TaskTracker::new();
        for _ in 0..callers {
            let (load, phase) = (Arc::clone(self), Arc::clone(&phase));
            running.spawn(async move {
                while Instant::now() < phase.end {
                    let request = load.requests.next();
                    let began = Instant::now();
                    // A refused call is sent again by the caller, as a client with retries does.
                    while let Outcome::Refused = load.call(request.clone(), began, &phase).await
                        && Instant::now() < phase.end
                    {
                        tokio::time::sleep(AFTER_REFUSAL).await;
                    }
                }
            });
        }
        running.close();
        running.wait().await;
        phase.answers(length)
    }

    /// `rate` calls arrive each second, evenly, independent of earlier answers. Latency counts from the time at
    /// which a call was due.
    pub(crate) async fn open(self: &Arc<Self>, rate: f64, length: Duration, on_drop: OnDrop) -> Answers {
        let phase = Arc::new(Phase::new(length));
        let began = Instant::now();
        let arrivals = (rate * length.as_secs_f64()) as u64;
        let unfinished = (rate * UNFINISHED.as_secs_f64()) as usize;
        let places = unfinished.clamp(*UNFINISHED_CALLS.start(), *UNFINISHED_CALLS.end());
        let places = Arc::new(Semaphore::new(places));
        let running = TaskTracker::new();
        let mut ran = length;
        for number in 0..arrivals {
            let due = began + Duration::from_secs_f64(number as f64 / rate);
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                phase.lock().dropped += 1;
                if on_drop == OnDrop::Stop {
                    ran = began.elapsed();
                    break;
                }
                continue;
            };
            let (load, phase) = (Arc::clone(self), Arc::clone(&phase));
            running.spawn(async move {
                load.call(load.requests.next(), due, &phase).await;
                drop(place);
            });
        }
        running.close();
        running.wait().await;
        phase.answers(ran)
    }

    async fn call(&self, request: Request, since: Instant, phase: &Phase) -> Outcome {
        let (ending, answer) = self.place(&request).await;
        let now = Instant::now();
        let mut answers = phase.lock();
        match &ending {
            Outcome::Fulfilled => {
                answers.fulfilled += 1;
                answers.in_time += u64::from(now <= phase.end);
            }
            Outcome::Declined => answers.declined += 1,
            Outcome::Invalid => answers.invalid += 1,
            Outcome::Repeated => answers.repeated += 1,
            Outcome::Refused => answers.refused += 1,
            Outcome::Failed(why) => *answers.errors.entry(why.clone()).or_default() += 1,
        }
        if !matches!(ending, Outcome::Refused | Outcome::Failed(_)) {
            answers
                .latency
                .saturating_record((now - since).as_micros() as u64);
        }
        drop(answers);
        if request.answered.is_none() {
            let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
            match &ending {
                Outcome::Fulfilled => sum.fulfilled += 1,
                Outcome::Declined | Outcome::Invalid => sum.rejected += 1,
                Outcome::Failed(_) => sum.unknown += 1,
                Outcome::Refused | Outcome::Repeated => {}
            }
            drop(sum);
            if let Some(answer) = answer
                && !matches!(ending, Outcome::Failed(_))
            {
                self.requests.remember(request, answer);
            }
        }
        ending
    }

    async fn place(&self, request: &Request) -> (Outcome, Option<Bytes>) {
        let channel = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        let mut client = tonic::client::Grpc::new(self.channels[channel].clone());
        if let Err(error) = client.ready().await {
            return (Outcome::Failed(format!("no connection: {error}")), None);
        }
        let mut call = tonic::Request::new(request.message.clone());
        call.metadata_mut()
            .insert("authorization", request.authorization.clone());
        call.set_timeout(DEADLINE);
        let answer = match client.unary(call, PathAndQuery::from_static(METHOD), Raw).await {
            Ok(answer) => answer,
            Err(status) if status.code() == Code::ResourceExhausted => return (Outcome::Refused, None),
            Err(status) => {
                return (
                    Outcome::Failed(format!("{:?}: {}", status.code(), status.message())),
                    None,
                );
            }
        };
        let marked = answer.metadata().contains_key(REPLAYED);
        let answer = answer.into_inner();
        let ending = match &request.answered {
            Some(_) if !marked => Outcome::Failed("a repetition was not marked as one".to_owned()),
            Some(first) if *first != answer => {
                Outcome::Failed("a repetition was answered otherwise".to_owned())
            }
            Some(_) => Outcome::Repeated,
            None => ending(request.expected, &answer),
        };
        (ending, Some(answer))
    }
}

/// Compares a first answer with the expected outcome.
fn ending(expected: Expected, answer: &Bytes) -> Outcome {
    let Ok(PlaceOrderResponse { order: Some(order) }) = PlaceOrderResponse::decode(answer.clone()) else {
        return Outcome::Failed("an answer without an order".to_owned());
    };
    let reason = order
        .failure
        .as_ref()
        .map_or("", |failure| failure.reason.as_str());
    match (expected, order.state(), reason) {
        (Expected::Fulfilled, OrderState::Fulfilled | OrderState::Settled, _) => Outcome::Fulfilled,
        (Expected::Declined, OrderState::Rejected, "INSUFFICIENT_FUNDS") => Outcome::Declined,
        (Expected::Invalid, OrderState::Rejected, "CLAIM_INVALID") => Outcome::Invalid,
        (_, state, _) => Outcome::Failed(format!("answered {} {reason}", state.as_str_name())),
    }
}

impl Answers {
    /// Number of orders made, each counted once, however often it was requested.
    pub(crate) fn orders(&self) -> u64 {
        self.fulfilled + self.declined + self.invalid
    }

    /// Fulfilled orders a second.
    pub(crate) fn rate(&self) -> f64 {
        self.in_time as f64 / self.length.as_secs_f64()
    }

    /// The latency in milliseconds that this share of calls did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        self.latency.value_at_quantile(share) as f64 / 1_000.0
    }
}

struct Phase {
    end: Instant,
    answers: Mutex<Answers>,
}

impl Phase {
    fn new(length: Duration) -> Phase {
        // From a microsecond to two minutes, to three digits.
        let latency = Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are in order");
        Phase {
            end: Instant::now() + length,
            answers: Mutex::new(Answers {
                latency,
                fulfilled: 0,
                in_time: 0,
                declined: 0,
                invalid: 0,
                repeated: 0,
                refused: 0,
                dropped: 0,
                errors: BTreeMap::new(),
                length,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self, length: Duration) -> Answers {
        let mut answers = self.lock().clone();
        answers.length = length;
        answers
    }
}
