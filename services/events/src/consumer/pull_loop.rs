//! One uninterrupted run of pulling deliveries: they come in stream order, without a gap, to this process alone.

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
    message::Message,
    queue::Queue,
    setup::{Setup, set_up},
};
use crate::{Error, lease::Lease};

const HEARTBEAT: Duration = Duration::from_secs(5);
const PULL_EXPIRES: Duration = Duration::from_secs(20);

/// Jobs of batchable events that start at once. Beyond them events wait for a batch, since one transaction of many
/// events costs less than many of one.
const EAGER_JOBS: usize = 2;

/// How long events wait for a batch at most while so many jobs run.
const GATHER_TIME: Duration = Duration::from_millis(10);

/// Why consuming ended.
pub(super) enum Exit {
    /// The service stops.
    Stopped,
    /// Another process consumes, or an operator paused the consumer.
    Standby,
    Interrupted(&'static str),
}

/// The work of one task: one event, or several of one facility that share a transaction.
struct Job {
    messages: Vec<Message>,
    /// One for each message.
    outcomes: Vec<Outcome>,
    batchable: bool,
    /// Held until the acknowledgement is sent: the next suspect may crash the process.
    _suspect_permit: Option<OwnedSemaphorePermit>,
}

struct PullLoop {
    worker: Arc<Worker>,
    lease: Lease,
    queue: Queue<Message>,
    jobs: JoinSet<Job>,
    /// The number of jobs of batchable events, and when the last of them was started.
    batchable_jobs: usize,
    last_batch_at: Instant,
    /// The consumer sequence of the next delivery. `None`: taken from the first one.
    expected: Option<u64>,
    /// See [`Setup`].
    suspects: RangeInclusive<u64>,
    catch_up: Option<CatchUp>,
    /// Reply subjects, by sequence, of the messages that wait or run here. Their acknowledgement wait is extended.
    in_progress: HashMap<u64, Subject>,
    /// Messages that wait for the database or a lock, by the time of their next attempt.
    waiting: BTreeMap<(Instant, u64), Message>,
    /// Attempts that the process may not survive run one at a time, so that a crash can be attributed.
    suspect_slot: Arc<Semaphore>,
}

pub(super) async fn run(
    worker: &Arc<Worker>,
    subjects: &[String],
    lease: Lease,
    stop: &CancellationToken,
) -> Result<Exit, Error> {
    // Subscribed before the setup: deliveries lost with a connection are redelivered to the next pull loop, at
    // once and in order.
    let mut disconnects = worker.bus.disconnects();
    let Setup {
        consumer,
        suspects,
        catch_up,
        expected,
    } = set_up(worker, subjects, lease.epoch, stop).await?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(worker.settings().max_in_flight)
        .heartbeat(HEARTBEAT)
        .expires(PULL_EXPIRES)
        .messages()
        .await
        .map_err(Error::broker)?;
    // Messages that arrive together are taken together.
    let mut deliveries = messages.ready_chunks(worker.settings().max_in_flight);
    let mut pull_loop = PullLoop {
        worker: worker.clone(),
        lease,
        queue: Queue::new(),
        jobs: JoinSet::new(),
        batchable_jobs: 0,
        last_batch_at: Instant::now(),
        expected,
        suspects,
        catch_up,
        in_progress: HashMap::new(),
        waiting: BTreeMap::new(),
        suspect_slot: Arc::new(Semaphore::new(1)),
    };
    let mut progress = tokio::time::interval(Duration::from_millis(worker.settings().ack_wait_ms) / 3);
    let end = loop {
        pull_loop.start_jobs();
        let next_retry_at = pull_loop.next_retry_at();
        tokio::select! {
            () = stop.cancelled() => break Ok(Exit::Stopped),
            _ = progress.tick() => pull_loop.extend_ack_wait().await,
            Some(job) = pull_loop.jobs.join_next() => match job {
                Ok(job) if job.is_fenced() => {
                    break Ok(Exit::Interrupted("another process owns the consumer"));
                }
                Ok(job) => pull_loop.finish(job).await,
                Err(error) => break Err(Error::Broker(format!("an attempt was lost: {error}"))),
            },
            () = tokio::time::sleep_until(pull_loop.last_batch_at + GATHER_TIME), if pull_loop.is_gathering() => {}
            () = tokio::time::sleep_until(next_retry_at.unwrap_or(pull_loop.last_batch_at)), if next_retry_at.is_some() => pull_loop.requeue_due(),
            _ = disconnects.changed() => {
                worker.disconnected.store(true, Ordering::Relaxed);
                break Ok(Exit::Interrupted("the connection to the broker was lost"));
            }
            chunk = deliveries.next() => match chunk {
                Some(chunk) => if let ControlFlow::Break(end) = pull_loop.receive(chunk).await {
                    break end;
                },
                None => break Ok(Exit::Interrupted("the subscription ended")),
            },
        }
    };
    drop(deliveries);
    pull_loop.drain().await;
    end
}

impl PullLoop {
    /// Queues deliveries. A break ends the pull loop.
    async fn receive(
        &mut self,
        chunk: Vec<Result<jetstream::Message, pull::MessagesError>>,
    ) -> ControlFlow<Result<Exit, Error>> {
        for message in chunk {
            let message = match message {
                Ok(message) => message,
                Err(error) if is_transient(&error) => continue,
                Err(error) => return ControlFlow::Break(Err(Error::broker(error))),
            };
            let Some(mut message) = Message::from_jetstream(&message) else {
                continue;
            };
            if self
                .expected
                .is_some_and(|expected| message.consumer_sequence != expected)
            {
                return ControlFlow::Break(Ok(Exit::Interrupted("a delivery was lost")));
            }
            self.expected = Some(message.consumer_sequence + 1);
            if self.skips(&message) {
                self.send_ack(&message.reply, "+ACK".to_owned()).await;
                continue;
            }
            message.suspect |= self.suspects.contains(&message.sequence);
            self.in_progress.insert(message.sequence, message.reply.clone());
            self.queue.push(message.key(), message);
        }
        ControlFlow::Continue(())
    }

    /// Whether a message received again during a catch-up must not be handled.
    fn skips(&mut self, message: &Message) -> bool {
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

    /// When the next waiting message is retried.
    fn next_retry_at(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(at, _)| *at)
    }

    /// Puts messages that have waited long enough back into the queue.
    fn requeue_due(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key().0 <= now) {
            let message = first.remove();
            self.queue.requeue(message.key(), message);
        }
    }

    fn start_jobs(&mut self) {
        while self.jobs.len() < self.worker.settings().concurrency {
            let messages = self.next_job();
            let Some(first) = messages.first() else { break };
            let batchable = first.is_batchable();
            if batchable {
                self.batchable_jobs += 1;
                self.last_batch_at = Instant::now();
            }
            let (worker, epoch) = (self.worker.clone(), self.lease.epoch);
            let suspect_slot = self.suspect_slot.clone();
            self.jobs.spawn(async move {
                let mut permit = None;
                let outcomes = match &messages[..] {
                    [message] => {
                        if message.suspect {
                            // The semaphore is never closed.
                            permit = suspect_slot.acquire_owned().await.ok();
                        }
                        vec![worker.attempt(message, epoch).await]
                    }
                    messages => worker.handle_batch(messages, epoch).await,
                };
                Job {
                    messages,
                    outcomes,
                    batchable,
                    _suspect_permit: permit,
                }
            });
        }
    }

    /// The next event that may run, and those that may share its transaction. They are of one facility, because of
    /// row-level security, and have different event ids, because of the inbox.
    fn next_job(&mut self) -> Vec<Message> {
        let gathering = self.is_gathering();
        let mut messages = self
            .queue
            .take(1, |message| !gathering || !message.is_batchable());
        let Some(first) = messages.first().filter(|first| first.is_batchable()) else {
            return messages;
        };
        let facility = first.envelope.facility.clone();
        let mut events = HashSet::from([first.envelope.event_id]);
        let others = self
            .queue
            .take(self.worker.batch_size().current() - 1, |message| {
                message.is_batchable()
                    && message.envelope.facility == facility
                    && events.insert(message.envelope.event_id)
            });
        messages.extend(others);
        messages
    }

    /// Whether batchable events wait for a batch instead of starting.
    fn is_gathering(&self) -> bool {
        self.batchable_jobs >= EAGER_JOBS
            && (1..self.worker.batch_size().current()).contains(&self.queue.ready_count())
            && self.last_batch_at.elapsed() < GATHER_TIME
    }

    async fn finish(&mut self, job: Job) {
        if job.batchable {
            self.batchable_jobs -= 1;
            if job
                .outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Done))
            {
                self.worker.batch_size().record_commit();
            }
        }
        for (message, outcome) in job.messages.into_iter().zip(job.outcomes) {
            self.acknowledge(message, outcome).await;
        }
    }

    async fn acknowledge(&mut self, mut message: Message, outcome: Outcome) {
        let (key, sequence) = (message.key(), message.sequence);
        let ack = match outcome {
            Outcome::Done => {
                self.queue.complete(key);
                "+ACK".to_owned()
            }
            Outcome::DeadLettered(reason) => {
                self.queue.complete(key);
                format!("+TERM {reason}")
            }
            Outcome::Retry(delay) => {
                self.queue.await_redelivery(key, sequence);
                format!("-NAK {{\"delay\": {}}}", delay.as_nanos())
            }
            Outcome::Wait(delay) => {
                message.waits += 1;
                message.effects_before = self.worker.effects.load(Ordering::Relaxed);
                message.alone = true;
                // A retry belongs to the same recorded start.
                message.suspect = false;
                self.waiting.insert((Instant::now() + delay, sequence), message);
                return;
            }
            Outcome::RetryAlone => {
                message.alone = true;
                self.queue.requeue(key, message);
                return;
            }
            // Another process owns the consumer, or soon will, and receives the message again.
            Outcome::Fenced => return,
        };
        self.in_progress.remove(&sequence);
        self.send_ack(&message.reply, ack).await;
    }

    /// Extends the acknowledgement wait of everything in progress.
    async fn extend_ack_wait(&self) {
        for reply in self.in_progress.values() {
            self.send_ack(reply, "+WPI".to_owned()).await;
        }
    }

    /// Waits for the running attempts. Messages that were not started are redelivered to the next process that
    /// consumes.
    async fn drain(&mut self) {
        while let Some(job) = self.jobs.join_next().await {
            if let Ok(job) = job {
                self.finish(job).await;
            }
        }
        if self.worker.bus.is_ready() && self.worker.bus.client().flush().await.is_err() {
            tracing::debug!(
                consumer = self.worker.name,
                "the last acknowledgements may be lost; the inbox recognises redelivered events"
            );
        }
    }

    /// A lost acknowledgement is harmless: the inbox recognises the event when it is redelivered.
    async fn send_ack(&self, reply: &Subject, text: String) {
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

fn is_transient(error: &pull::MessagesError) -> bool {
    matches!(
        error.kind(),
        pull::MessagesErrorKind::MissingHeartbeat | pull::MessagesErrorKind::NoResponders
    )
}
