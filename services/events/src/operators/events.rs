use std::{sync::Arc, time::Duration};

use chassis::idempotency;
use proto::ops::v1::{
    self as ops,
    event_service_server::{EventService, EventServiceServer},
};
use sqlx::PgPool;
use tonic::{Extensions, Request, Response, Status};

use super::{
    Caller, CallerOf,
    actions::{About, Action, once},
    consumers,
    failure::Failure,
    held, tail,
};
use crate::{
    Audit, Bus, Error, Report,
    topology::{self, Difference},
};

const DEFAULT_WINDOW: Duration = Duration::from_secs(86_400);

/// Missing events that an answer names.
const MOST_NAMED: usize = 100;

/// `ops.v1.EventService`: the service's consumers, and its event log against the stream.
#[derive(Clone)]
pub struct EventOperations(Arc<Inner>);

struct Inner {
    bus: Bus,
    pool: PgPool,
    caller: Box<CallerOf>,
}

impl EventOperations {
    /// `caller` reads what the server's authentication put into the request's extensions.
    pub fn new(
        bus: &Bus,
        pool: &PgPool,
        caller: impl Fn(&Extensions) -> Result<Caller, Status> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            bus: bus.clone(),
            pool: pool.clone(),
            caller: Box::new(caller),
        }))
    }

    /// The service to mount.
    pub fn into_service(self) -> EventServiceServer<Self> {
        EventServiceServer::new(self).max_decoding_message_size(chassis::server::CHECKED_BEFORE)
    }

    fn open<M>(&self, request: Request<M>) -> Result<(Caller, M), Status> {
        let caller = (self.0.caller)(request.extensions())?;
        Ok((caller, request.into_inner()))
    }

    async fn compare(&self, asked: Option<&prost_types::Duration>) -> Result<Report, Status> {
        let audit = Audit::new(&self.0.bus, &self.0.pool);
        audit.compare(window(asked)?).await.map_err(failure)
    }
}

fn window(asked: Option<&prost_types::Duration>) -> Result<Duration, Failure> {
    let window = asked.map_or(Ok(DEFAULT_WINDOW), |window| Duration::try_from(*window));
    window.map_err(|_| Failure::Invalid {
        field: "window",
        problem: "must be positive",
    })
}

#[tonic::async_trait]
impl EventService for EventOperations {
    async fn list_consumers(
        &self,
        request: Request<ops::ListConsumersRequest>,
    ) -> Result<Response<ops::ListConsumersResponse>, Status> {
        self.open(request)?;
        let consumers = consumers::list(&self.0.bus, &self.0.pool).await?;
        let mut connection = self.0.pool.acquire().await.map_err(Failure::from)?;
        let held_message_count = held::count(&mut connection).await.map_err(Failure::from)?;
        Ok(Response::new(ops::ListConsumersResponse {
            consumers,
            held_message_count,
        }))
    }

    async fn pause_consumer(
        &self,
        request: Request<ops::PauseConsumerRequest>,
    ) -> Result<Response<ops::PauseConsumerResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let action = Action::of("PauseConsumer", &request, &request.request_id, &caller)?;
        let pause = async |tx: &mut sqlx::PgConnection| {
            consumers::set_paused(tx, &request.consumer, true, &caller, &request.reason).await?;
            Ok((
                ops::PauseConsumerResponse {},
                About::said(format!("{}: {}", request.consumer, request.reason)),
            ))
        };
        once(&self.0.pool, &action, pause).await
    }

    async fn resume_consumer(
        &self,
        request: Request<ops::ResumeConsumerRequest>,
    ) -> Result<Response<ops::ResumeConsumerResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let action = Action::of("ResumeConsumer", &request, &request.request_id, &caller)?;
        let resume = async |tx: &mut sqlx::PgConnection| {
            consumers::set_paused(tx, &request.consumer, false, &caller, "").await?;
            Ok((
                ops::ResumeConsumerResponse {},
                About::said(request.consumer.clone()),
            ))
        };
        once(&self.0.pool, &action, resume).await
    }

    async fn audit_events(
        &self,
        request: Request<ops::AuditEventsRequest>,
    ) -> Result<Response<ops::AuditEventsResponse>, Status> {
        let (_, request) = self.open(request)?;
        let report = self.compare(request.window.as_ref()).await?;
        Ok(Response::new(ops::AuditEventsResponse {
            logged_count: report.logged,
            pending_count: report.pending,
            missing_count: report.missing.len() as u64,
            missing_event_ids: report
                .missing
                .iter()
                .take(MOST_NAMED)
                .map(ToString::to_string)
                .collect(),
        }))
    }

    async fn republish_events(
        &self,
        request: Request<ops::RepublishEventsRequest>,
    ) -> Result<Response<ops::RepublishEventsResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let action = Action::of("RepublishEvents", &request, &request.request_id, &caller)?;
        let mut tx = caller.begin(&self.0.pool).await.map_err(Failure::from)?;
        let answered: Option<ops::RepublishEventsResponse> = action.answered(&mut tx).await?;
        tx.rollback().await.map_err(Failure::from)?;
        if let Some(answer) = answered {
            return Ok(idempotency::replayed(answer));
        }
        // The broker is read before the transaction begins.
        let audit = Audit::new(&self.0.bus, &self.0.pool);
        let report = audit.compare_beyond(window(request.window.as_ref())?).await;
        let report = report.map_err(failure)?;
        let republish = async |tx: &mut sqlx::PgConnection| {
            let republished_count = report.requeue(tx).await?;
            let said = About::said(format!("{republished_count} events"));
            Ok((ops::RepublishEventsResponse { republished_count }, said))
        };
        let answer = once(&self.0.pool, &action, republish).await?;
        self.0.bus.outbox().wake();
        Ok(answer)
    }

    type TailEventsStream = tail::Tail;

    async fn tail_events(
        &self,
        request: Request<ops::TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        let (caller, request) = self.open(request)?;
        Ok(Response::new(tail::follow(&self.0.bus, &caller, &request).await?))
    }

    async fn apply_streams(
        &self,
        request: Request<ops::ApplyStreamsRequest>,
    ) -> Result<Response<ops::ApplyStreamsResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let bus = &self.0.bus;
        if request.validate_only {
            let differences = topology::compare(bus).await.map_err(failure)?;
            return Ok(Response::new(answer(differences)));
        }
        let action = Action::of("ApplyStreams", &request, &request.request_id, &caller)?;
        let mut tx = caller.begin(&self.0.pool).await.map_err(Failure::from)?;
        let answered: Option<ops::ApplyStreamsResponse> = action.answered(&mut tx).await?;
        tx.rollback().await.map_err(Failure::from)?;
        if let Some(answer) = answered {
            return Ok(idempotency::replayed(answer));
        }
        // The broker is changed before the transaction begins: to do it again changes nothing.
        let differences = topology::compare(bus).await.map_err(failure)?;
        topology::apply(bus, &self.0.pool).await.map_err(failure)?;
        let said = About::said(format!("{} differences", differences.len()));
        let answer = answer(differences);
        once(&self.0.pool, &action, async |_: &mut sqlx::PgConnection| {
            Ok((answer, said))
        })
        .await
    }

    async fn list_held_messages(
        &self,
        request: Request<ops::ListHeldMessagesRequest>,
    ) -> Result<Response<ops::ListHeldMessagesResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let mut tx = caller.begin(&self.0.pool).await.map_err(Failure::from)?;
        let messages = held::list(&mut tx, request.after_position).await?;
        Ok(Response::new(ops::ListHeldMessagesResponse { messages }))
    }

    async fn retry_held_messages(
        &self,
        request: Request<ops::RetryHeldMessagesRequest>,
    ) -> Result<Response<ops::RetryHeldMessagesResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let action = Action::of("RetryHeldMessages", &request, &request.request_id, &caller)?;
        let retry = async |tx: &mut sqlx::PgConnection| held::retry(tx, &request).await;
        let answer = once(&self.0.pool, &action, retry).await?;
        self.0.bus.outbox().wake();
        Ok(answer)
    }

    async fn discard_held_message(
        &self,
        request: Request<ops::DiscardHeldMessageRequest>,
    ) -> Result<Response<ops::DiscardHeldMessageResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let action = Action::of("DiscardHeldMessage", &request, &request.request_id, &caller)?;
        let discard = async |tx: &mut sqlx::PgConnection| held::discard(tx, &request).await;
        let answer = once(&self.0.pool, &action, discard).await?;
        self.0.bus.outbox().wake();
        Ok(answer)
    }
}

fn failure(error: Error) -> Status {
    match error {
        Error::Database(error) => Failure::Database(error).into(),
        error => Failure::Broker(error.to_string()).into(),
    }
}

fn answer(differences: Vec<Difference>) -> ops::ApplyStreamsResponse {
    let differences = differences.into_iter().map(|difference| ops::StreamDifference {
        object: difference.object,
        setting: difference.setting,
        is: difference.is,
        wanted: difference.wanted,
    });
    ops::ApplyStreamsResponse {
        differences: differences.collect(),
    }
}
