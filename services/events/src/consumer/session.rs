//! One uninterrupted stretch of consuming: deliveries come in stream order, without a gap, to this process alone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::{ControlFlow, RangeInclusive},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    Subject,
    jetstream::{self, consumer::pull},
};
use futures_util::StreamExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    attempt::Outcome,
    catch_up::{CatchUp, Treatment},
    inbound::Inbound,
    opening::{Opened, open},
    queue::Queue,
};
use crate::{Error, lease::Lease};

const HEARTBEAT: Duration = Duration::from_secs(5);
const PULL_EXPIRES: Duration = Duration::from_secs(20);

/// Jobs of sociable events that start as soon as there is one. More of them at once would take the company from each
/// other: one transaction of many events costs less than many of one.
const EAGER: usize = 2;

/// How long events wait for company at most while so many jobs run.
const GATHERING: Duration = Duration::from_millis(10);

/// Why consuming ended.
pub(super) enum End {
    /// The service stops.
    Stopped,
    /// Another process consumes, or an operator holds the consumer.
    Standby,
    Interrupted(&'static str),
}

/// What runs in one task: one event, or several of one facility that share a transaction.
struct Job {
    messages: Vec<Inbound>,
    /// One of each message.
    outcomes: Vec<Outcome>,
    sociable: bool,
    /// Kept until the broker is told: the next suspect may kill the process before it.
    _alone: Option<OwnedSemaphorePermit>,
}

struct Session {
    worker: Arc<Worker>,
    lease: Lease,
    queue: Queue<Inbound>,
    jobs: JoinSet<Job>,
    /// How many of the jobs are of sociable events, and when the last of them was started.
    sociable: usize,
    started: Instant,
    /// The consumer sequence of the next delivery. `None`: to be taken from the first one.
    expected: Option<u64>,
    /// See [`Opened`].
    in_hand_before: RangeInclusive<u64>,
    catch_up: Option<CatchUp>,
    /// Reply subjects of the messages that wait or run here, by sequence: their time is extended.
    in_hand: HashMap<u64, Subject>,
    /// What waits for the database or a lock, by the time at which it is tried again.
    waiting: BTreeMap<(Instant, u64), Inbound>,
    /// Attempts that the process may not survive run one at a time, so that the guilty one is known.
    alone: Arc<Semaphore>,
}

pub(super) async fn run(
    worker: &Arc<Worker>,
    subjects: &[String],
    lease: Lease,
    stop: &CancellationToken,
) -> Result<End, Error> {
    // From here on: what a lost connection took with it is delivered again to the next session, at once and in order.
    let mut disconnects = worker.bus.disconnects();
    let Opened {
        consumer,
        in_hand_before,
        catch_up,
        expected,
    } = open(worker, subjects, lease.epoch, stop).await?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(worker.settings().max_in_flight)
        .heartbeat(HEARTBEAT)
        .expires(PULL_EXPIRES)
        .messages()
        .await
        .map_err(Error::broker)?;
    // What a burst of the relay has brought is looked at as a whole.
    let mut deliveries = messages.ready_chunks(worker.settings().max_in_flight);
    let mut session = Session {
        worker: worker.clone(),
        lease,
        queue: Queue::new(),
        jobs: JoinSet::new(),
        sociable: 0,
        started: Instant::now(),
        expected,
        in_hand_before,
        catch_up,
        in_hand: HashMap::new(),
        waiting: BTreeMap::new(),
        alone: Arc::new(Semaphore::new(1)),
    };
    let mut progress = tokio::time::interval(Duration::from_millis(worker.settings().ack_wait_ms) / 3);
    let end = loop {
        session.start_jobs();
        let due = session.due();
        tokio::select! {
            () = stop.cancelled() => break Ok(End::Stopped),
            _ = progress.tick() => session.extend().await,
            Some(job) = session.jobs.join_next() => match job {
                Ok(job) if job.is_fenced() => {
                    break Ok(End::Interrupted("the consumer is not this process's any more"));
                }
                Ok(job) => session.conclude(job).await,
                Err(error) => break Err(Error::Broker(format!("an attempt was lost: {error}"))),
            },
            () = tokio::time::sleep_until(session.started + GATHERING), if session.is_gathering() => {}
            () = tokio::time::sleep_until(due.unwrap_or(session.started)), if due.is_some() => session.resume_due(),
            _ = disconnects.changed() => {
                worker.disconnected.store(true, Ordering::Relaxed);
                break Ok(End::Interrupted("the connection to the broker was lost"));
            }
            chunk = deliveries.next() => match chunk {
                Some(chunk) => if let ControlFlow::Break(end) = session.receive(chunk).await {
                    break end;
                },
                None => break Ok(End::Interrupted("the subscription ended")),
            },
        }
    };
    drop(deliveries);
    session.drain().await;
    end
}

impl Session {
    /// Takes deliveries in. A break is the end of the session.
    async fn receive(
        &mut self,
        chunk: Vec<Result<jetstream::Message, pull::MessagesError>>,
    ) -> ControlFlow<Result<End, Error>> {
        for message in chunk {
            let message = match message {
                Ok(message) => message,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return ControlFlow::Break(Err(Error::broker(error))),
            };
            let Some(mut inbound) = Inbound::read(&message) else {
                continue;
            };
            if self
                .expected
                .is_some_and(|expected| inbound.consumer_sequence != expected)
            {
                return ControlFlow::Break(Ok(End::Interrupted("a delivery was lost")));
            }
            self.expected = Some(inbound.consumer_sequence + 1);
            if self.passes_over(&inbound) {
                self.send(&inbound.reply, "+ACK".to_owned()).await;
                continue;
            }
            inbound.suspect |= self.in_hand_before.contains(&inbound.sequence);
            self.in_hand.insert(inbound.sequence, inbound.reply.clone());
            self.queue.push(inbound.key(), inbound);
        }
        ControlFlow::Continue(())
    }

    /// Whether a message that comes again while the consumer catches up must not be handled.
    fn passes_over(&mut self, message: &Inbound) -> bool {
        let Some(catch_up) = &self.catch_up else {
            return false;
        };
        match catch_up.treatment(message) {
            Treatment::Handle => false,
            Treatment::Acknowledged => true,
            Treatment::Forgotten => {
                tracing::error!(
                    consumer = self.worker.name,
                    event.id = %message.envelope.event_id,
                    stream.sequence = message.sequence,
                    "an event of a subject that the filter has gained is older than what the inbox remembers; it takes no \
                     effect"
                );
                true
            }
        }
    }

    /// When the first of what waits is to be tried again.
    fn due(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(at, _)| *at)
    }

    /// Returns what has waited long enough to the queue.
    fn resume_due(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key().0 <= now) {
            let message = first.remove();
            self.queue.returned(message.key(), message);
        }
    }

    fn start_jobs(&mut self) {
        while self.jobs.len() < self.worker.settings().concurrency {
            let messages = self.next_job();
            let Some(first) = messages.first() else { break };
            let sociable = first.is_sociable();
            if sociable {
                self.sociable += 1;
                self.started = Instant::now();
            }
            let (worker, epoch) = (self.worker.clone(), self.lease.epoch);
            let alone = self.alone.clone();
            self.jobs.spawn(async move {
                let mut permit = None;
                let outcomes = match &messages[..] {
                    [message] => {
                        if message.suspect {
                            // The semaphore is never closed.
                            permit = alone.acquire_owned().await.ok();
                        }
                        vec![worker.attempt(message, epoch).await]
                    }
                    messages => worker.batch(messages, epoch).await,
                };
                Job {
                    messages,
                    outcomes,
                    sociable,
                    _alone: permit,
                }
            });
        }
    }

    /// The next event that may run, and those that may share its transaction: row-level security goes by the facility,
    /// and the inbox by the event's id.
    fn next_job(&mut self) -> Vec<Inbound> {
        let gathering = self.is_gathering();
        let mut messages = self.queue.take(1, |message| !gathering || !message.is_sociable());
        let Some(first) = messages.first().filter(|first| first.is_sociable()) else {
            return messages;
        };
        let facility = first.envelope.facility.clone();
        let mut events = HashSet::from([first.envelope.event_id]);
        let company = self.queue.take(self.worker.pace().size() - 1, |message| {
            message.is_sociable()
                && message.envelope.facility == facility
                && events.insert(message.envelope.event_id)
        });
        messages.extend(company);
        messages
    }

    /// Whether sociable events wait for company rather than start.
    fn is_gathering(&self) -> bool {
        self.sociable >= EAGER
            && (1..self.worker.pace().size()).contains(&self.queue.ready())
            && self.started.elapsed() < GATHERING
    }

    async fn conclude(&mut self, job: Job) {
        if job.sociable {
            self.sociable -= 1;
            if job
                .outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Done))
            {
                self.worker.pace().committed();
            }
        }
        for (message, outcome) in job.messages.into_iter().zip(job.outcomes) {
            self.settle(message, outcome).await;
        }
    }

    async fn settle(&mut self, mut message: Inbound, outcome: Outcome) {
        let (key, sequence) = (message.key(), message.sequence);
        let answer = match outcome {
            Outcome::Done => {
                self.queue.finished(key);
                "+ACK".to_owned()
            }
            Outcome::Dead(reason) => {
                self.queue.finished(key);
                format!("+TERM {reason}")
            }
            Outcome::Again(delay) => {
                self.queue.held(key, sequence);
                format!("-NAK {{\"delay\": {}}}", delay.as_nanos())
            }
            Outcome::Wait(delay) => {
                message.waits += 1;
                message.effects_before = self.worker.effects.load(Ordering::Relaxed);
                message.apart = true;
                // A repetition is the same start, not another one.
                message.suspect = false;
                self.waiting.insert((Instant::now() + delay, sequence), message);
                return;
            }
            Outcome::Apart => {
                message.apart = true;
                self.queue.returned(key, message);
                return;
            }
            // Another process owns the consumer, or soon will: it gets the message again.
            Outcome::Fenced => return,
        };
        self.in_hand.remove(&sequence);
        self.send(&message.reply, answer).await;
    }

    /// Tells the broker that everything in hand is still being worked on.
    async fn extend(&self) {
        for reply in self.in_hand.values() {
            self.send(reply, "+WPI".to_owned()).await;
        }
    }

    /// Lets the running attempts end. What has not started is delivered again, to whoever consumes next.
    async fn drain(&mut self) {
        while let Some(job) = self.jobs.join_next().await {
            if let Ok(job) = job {
                self.conclude(job).await;
            }
        }
        if self.worker.bus.is_ready() && self.worker.bus.client().flush().await.is_err() {
            tracing::debug!(
                consumer = self.worker.name,
                "the last acknowledgements may be lost; the inbox knows"
            );
        }
    }

    /// A lost acknowledgement is harmless: the inbox recognises the event when it comes again.
    async fn send(&self, reply: &Subject, text: String) {
        if let Err(error) = self.worker.bus.client().publish(reply.clone(), text.into()).await {
            tracing::debug!(consumer = self.worker.name, error = %error, "an acknowledgement was not sent");
        }
    }
}

impl Job {
    fn is_fenced(&self) -> bool {
        self.outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Fenced))
    }
}

fn is_passing(error: &pull::MessagesError) -> bool {
    matches!(
        error.kind(),
        pull::MessagesErrorKind::MissingHeartbeat | pull::MessagesErrorKind::NoResponders
    )
}
