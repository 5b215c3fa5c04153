use std::{sync::Arc, time::Duration};

use chassis::idempotency;
use proto::ops::v1::{
    self as ops,
    event_service_server::{EventService, EventServiceServer},
};
use sqlx::PgPool;
use tonic::{Extensions, Request, Response, Status};

use super::{
    Authenticate, Operator,
    actions::{Action, AuditDetail, execute_once},
    consumers,
    error::Error,
    held, tail,
};
use crate::{
    Audit, Bus, Report,
    topology::{self, Difference},
};

const DEFAULT_WINDOW: Duration = Duration::from_secs(86_400);

/// The most ids of missing events in a response.
const MAX_MISSING_IDS: usize = 100;

/// `ops.v1.EventService`: the service's consumers, and the audit of its event log against the stream.
#[derive(Clone)]
pub struct EventOperations(Arc<Inner>);

struct Inner {
    bus: Bus,
    pool: PgPool,
    authenticate: Box<Authenticate>,
}

impl EventOperations {
    /// `authenticate` reads the operator from the request's extensions, where the server's authentication has
    /// stored it.
    pub fn new(
        bus: &Bus,
        pool: &PgPool,
        authenticate: impl Fn(&Extensions) -> Result<Operator, Status> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            bus: bus.clone(),
            pool: pool.clone(),
            authenticate: Box::new(authenticate),
        }))
    }

    /// The gRPC service for the server.
    pub fn into_service(self) -> EventServiceServer<Self> {
        EventServiceServer::new(self).max_decoding_message_size(chassis::server::NO_DECODING_LIMIT)
    }

    fn open<M>(&self, request: Request<M>) -> Result<(Operator, M), Status> {
        let operator = (self.0.authenticate)(request.extensions())?;
        Ok((operator, request.into_inner()))
    }

    async fn compare(&self, requested: Option<&prost_types::Duration>) -> Result<Report, Status> {
        let audit = Audit::new(&self.0.bus, &self.0.pool);
        audit.compare(window(requested)?).await.map_err(to_status)
    }
}

fn window(requested: Option<&prost_types::Duration>) -> Result<Duration, Error> {
    let window = requested.map_or(Ok(DEFAULT_WINDOW), |window| Duration::try_from(*window));
    window.map_err(|_| Error::Invalid {
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
        let mut connection = self.0.pool.acquire().await.map_err(Error::from)?;
        let held_message_count = held::count(&mut connection).await.map_err(Error::from)?;
        Ok(Response::new(ops::ListConsumersResponse {
            consumers,
            held_message_count,
        }))
    }

    async fn pause_consumer(
        &self,
        request: Request<ops::PauseConsumerRequest>,
    ) -> Result<Response<ops::PauseConsumerResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let action = Action::new("PauseConsumer", &request, &request.request_id, &operator)?;
        let pause = async |tx: &mut sqlx::PgConnection| {
            consumers::set_paused(tx, &request.consumer, true, &operator, &request.reason).await?;
            Ok((
                ops::PauseConsumerResponse {},
                AuditDetail::new(format!("{}: {}", request.consumer, request.reason)),
            ))
        };
        execute_once(&self.0.pool, &action, pause).await
    }

    async fn resume_consumer(
        &self,
        request: Request<ops::ResumeConsumerRequest>,
    ) -> Result<Response<ops::ResumeConsumerResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let action = Action::new("ResumeConsumer", &request, &request.request_id, &operator)?;
        let resume = async |tx: &mut sqlx::PgConnection| {
            consumers::set_paused(tx, &request.consumer, false, &operator, "").await?;
            Ok((
                ops::ResumeConsumerResponse {},
                AuditDetail::new(request.consumer.clone()),
            ))
        };
        execute_once(&self.0.pool, &action, resume).await
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
                .take(MAX_MISSING_IDS)
                .map(ToString::to_string)
                .collect(),
        }))
    }

    async fn republish_events(
        &self,
        request: Request<ops::RepublishEventsRequest>,
    ) -> Result<Response<ops::RepublishEventsResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let action = Action::new("RepublishEvents", &request, &request.request_id, &operator)?;
        let mut tx = operator.begin(&self.0.pool).await.map_err(Error::from)?;
        let stored: Option<ops::RepublishEventsResponse> = action.find_response(&mut tx).await?;
        tx.rollback().await.map_err(Error::from)?;
        if let Some(answer) = stored {
            return Ok(idempotency::replayed(answer));
        }
        // The broker is read before the transaction begins.
        let audit = Audit::new(&self.0.bus, &self.0.pool);
        let report = audit
            .compare_beyond_stream_age(window(request.window.as_ref())?)
            .await;
        let report = report.map_err(to_status)?;
        let republish = async |tx: &mut sqlx::PgConnection| {
            let republished_count = report.requeue(tx).await?;
            let detail = AuditDetail::new(format!("{republished_count} events"));
            Ok((ops::RepublishEventsResponse { republished_count }, detail))
        };
        let answer = execute_once(&self.0.pool, &action, republish).await?;
        self.0.bus.outbox().wake();
        Ok(answer)
    }

    type TailEventsStream = tail::Tail;

    async fn tail_events(
        &self,
        request: Request<ops::TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        let (operator, request) = self.open(request)?;
        Ok(Response::new(
            tail::start(&self.0.bus, &operator, &request).await?,
        ))
    }

    async fn apply_streams(
        &self,
        request: Request<ops::ApplyStreamsRequest>,
    ) -> Result<Response<ops::ApplyStreamsResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let bus = &self.0.bus;
        if request.validate_only {
            let differences = topology::compare(bus).await.map_err(to_status)?;
            return Ok(Response::new(response(differences)));
        }
        let action = Action::new("ApplyStreams", &request, &request.request_id, &operator)?;
        let mut tx = operator.begin(&self.0.pool).await.map_err(Error::from)?;
        let stored: Option<ops::ApplyStreamsResponse> = action.find_response(&mut tx).await?;
        tx.rollback().await.map_err(Error::from)?;
        if let Some(answer) = stored {
            return Ok(idempotency::replayed(answer));
        }
        // The broker is changed before the transaction begins. Repeating the change has no effect.
        let differences = topology::compare(bus).await.map_err(to_status)?;
        topology::apply(bus, &self.0.pool).await.map_err(to_status)?;
        let detail = AuditDetail::new(format!("{} differences", differences.len()));
        let answer = response(differences);
        execute_once(&self.0.pool, &action, async |_: &mut sqlx::PgConnection| {
            Ok((answer, detail))
        })
        .await
    }

    async fn list_held_messages(
        &self,
        request: Request<ops::ListHeldMessagesRequest>,
    ) -> Result<Response<ops::ListHeldMessagesResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let mut tx = operator.begin(&self.0.pool).await.map_err(Error::from)?;
        let messages = held::list(&mut tx, request.after_position).await?;
        Ok(Response::new(ops::ListHeldMessagesResponse { messages }))
    }

    async fn retry_held_messages(
        &self,
        request: Request<ops::RetryHeldMessagesRequest>,
    ) -> Result<Response<ops::RetryHeldMessagesResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let action = Action::new("RetryHeldMessages", &request, &request.request_id, &operator)?;
        let retry = async |tx: &mut sqlx::PgConnection| held::retry(tx, &request).await;
        let answer = execute_once(&self.0.pool, &action, retry).await?;
        self.0.bus.outbox().wake();
        Ok(answer)
    }

    async fn discard_held_message(
        &self,
        request: Request<ops::DiscardHeldMessageRequest>,
    ) -> Result<Response<ops::DiscardHeldMessageResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let action = Action::new("DiscardHeldMessage", &request, &request.request_id, &operator)?;
        let discard = async |tx: &mut sqlx::PgConnection| held::discard(tx, &request).await;
        let answer = execute_once(&self.0.pool, &action, discard).await?;
        self.0.bus.outbox().wake();
        Ok(answer)
    }
}

fn to_status(error: crate::Error) -> Status {
    match error {
        crate::Error::Database(error) => Error::Database(error).into(),
        error => Error::Broker(error.to_string()).into(),
    }
}

fn response(differences: Vec<Difference>) -> ops::ApplyStreamsResponse {
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
