//! One uninterrupted stretch of consuming: deliveries come in stream order, without a gap, to this process alone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{
    Subject,
    jetstream::consumer::{PullConsumer, pull},
};
use futures_util::StreamExt as _;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Worker, attempt::Outcome, definition, inbound::Inbound, queue::Queue};
use crate::{Error, lease::Lease, streams};

const HEARTBEAT: Duration = Duration::from_secs(5);
const PULL_EXPIRES: Duration = Duration::from_secs(20);

/// Why consuming ended.
pub(super) enum End {
    /// The service stops.
    Stopped,
    /// Another process consumes, or an operator holds the consumer.
    Standby,
    Interrupted(&'static str),
}

struct Opened {
    consumer: PullConsumer,
    /// Up to this sequence a process may have died over any message; 0 when none was in hand.
    delivered_before: u64,
    /// The consumer sequence of the next delivery. `None`: to be taken from the first one.
    expected: Option<u64>,
}

struct Session {
    worker: Arc<Worker>,
    lease: Lease,
    queue: Queue<Inbound>,
    jobs: JoinSet<(Uuid, Inbound, Outcome)>,
    /// Reply subjects of the messages that wait or run here, by sequence: their time is extended.
    in_hand: HashMap<u64, Subject>,
    /// Attempts that the process may not survive run one at a time, so that the guilty one is known.
    alone: Arc<Semaphore>,
}

pub(super) async fn run(
    worker: &Arc<Worker>,
    subjects: &[String],
    lease: Lease,
    stop: &CancellationToken,
) -> Result<End, Error> {
    let Opened {
        consumer,
        delivered_before,
        mut expected,
    } = open(worker, subjects, stop).await?;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(worker.settings().max_in_flight)
        .heartbeat(HEARTBEAT)
        .expires(PULL_EXPIRES)
        .messages()
        .await
        .map_err(Error::broker)?;
    let mut session = Session {
        worker: worker.clone(),
        lease,
        queue: Queue::new(),
        jobs: JoinSet::new(),
        in_hand: HashMap::new(),
        alone: Arc::new(Semaphore::new(1)),
    };
    let mut progress = tokio::time::interval(Duration::from_millis(worker.settings().ack_wait_ms) / 3);
    let end = loop {
        session.start_jobs(stop);
        tokio::select! {
            () = stop.cancelled() => break Ok(End::Stopped),
            _ = progress.tick() => session.extend().await,
            Some(job) = session.jobs.join_next() => match job {
                Ok((_, _, Outcome::Fenced)) => break Ok(End::Interrupted("the consumer is not this process's any more")),
                Ok((key, message, outcome)) => session.settle(key, &message, outcome).await,
                Err(error) => break Err(Error::Broker(format!("an attempt was lost: {error}"))),
            },
            next = messages.next() => match next {
                Some(Ok(message)) => {
                    let Some(mut inbound) = Inbound::read(&message) else { continue };
                    if expected.is_some_and(|expected| inbound.consumer_sequence != expected) {
                        break Ok(End::Interrupted("a delivery was lost"));
                    }
                    expected = Some(inbound.consumer_sequence + 1);
                    inbound.suspect |= inbound.sequence <= delivered_before;
                    session.in_hand.insert(inbound.sequence, inbound.reply.clone());
                    session.queue.push(inbound.key(), inbound);
                }
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => break Err(Error::broker(error)),
                None => break Ok(End::Interrupted("the subscription ended")),
            },
        }
    };
    drop(messages);
    session.drain().await;
    end
}

impl Session {
    fn start_jobs(&mut self, stop: &CancellationToken) {
        while self.jobs.len() < self.worker.settings().concurrency {
            let Some((key, message)) = self.queue.next() else {
                break;
            };
            let (worker, epoch) = (self.worker.clone(), self.lease.epoch);
            let (alone, stop) = (self.alone.clone(), stop.clone());
            self.jobs.spawn(async move {
                // The semaphore is never closed.
                let _permit = if message.suspect {
                    alone.acquire().await.ok()
                } else {
                    None
                };
                let outcome = worker.attempt(&message, epoch, &stop).await;
                (key, message, outcome)
            });
        }
    }

    async fn settle(&mut self, key: Uuid, message: &Inbound, outcome: Outcome) {
        self.in_hand.remove(&message.sequence);
        let reply = match outcome {
            Outcome::Done => "+ACK".to_owned(),
            Outcome::Dead(reason) => format!("+TERM {reason}"),
            Outcome::Again(delay) => {
                self.queue.held(key, message.sequence);
                self.send(
                    &message.reply,
                    format!("-NAK {{\"delay\": {}}}", delay.as_nanos()),
                )
                .await;
                return;
            }
            // Another process owns the consumer, or soon will: it gets the message again.
            Outcome::Fenced => return,
        };
        self.queue.finished(key);
        self.send(&message.reply, reply).await;
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
            if let Ok((key, message, outcome)) = job {
                self.settle(key, &message, outcome).await;
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

/// Creates or updates the consumer and takes it back to its acknowledgement floor, so that what a former owner had in
/// hand comes first and in order.
async fn open(worker: &Worker, subjects: &[String], stop: &CancellationToken) -> Result<Opened, Error> {
    let settings = worker.settings();
    let ack_wait = Duration::from_millis(settings.ack_wait_ms);
    let config = definition(&worker.bus, &worker.name, subjects);
    let jetstream = worker.bus.jetstream();
    let mut consumer: PullConsumer = jetstream
        .create_consumer_on_stream(config, streams::EVENTS)
        .await
        .map_err(Error::broker)?;
    let info = consumer.info().await.map_err(Error::broker)?.clone();
    if info.num_ack_pending == 0 {
        let expected = Some(info.delivered.consumer_sequence + 1);
        return Ok(Opened {
            consumer,
            delivered_before: 0,
            expected,
        });
    }
    let delivered_before = info.delivered.stream_sequence;
    let expected = match consumer.reset(None).await {
        Ok(reset) => Some(reset.info.delivered.consumer_sequence + 1),
        Err(error) => {
            // A server before 2.14 cannot. Once their time is up it delivers unacknowledged messages first, in order.
            tracing::info!(consumer = worker.name, error = %error, "waiting for messages in hand to come back");
            tokio::select! {
                () = tokio::time::sleep(ack_wait + Duration::from_secs(1)) => {}
                () = stop.cancelled() => {}
            }
            None
        }
    };
    Ok(Opened {
        consumer,
        delivered_before,
        expected,
    })
}

fn is_passing(error: &pull::MessagesError) -> bool {
    matches!(
        error.kind(),
        pull::MessagesErrorKind::MissingHeartbeat | pull::MessagesErrorKind::NoResponders
    )
}
