//! The audit trail: one row for every call of an audited method.
//!
//! A call with effects writes its row in the transaction of its first effect ([`record_effect`], called by
//! [`idempotency::acquire`](crate::idempotency::acquire)), so every committed effect has a row even if the process
//! is killed. The [`Writer`](writer) adds how calls ended, many in one statement, from a bounded queue.

mod settings;
mod writer;

use std::{
    mem,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

pub use settings::Settings;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tonic::{Code, Status};
use uuid::Uuid;
pub(crate) use writer::{Writer, start};

use weft_server::server::sanitize_request_id;

use crate::Facility;

tokio::task_local! {
    static CURRENT: AuditedCall;
}

/// An audited call that has started. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AuditedCall {
    call_id: Uuid,
    /// When it arrived; together with the id, the key of its row.
    at: OffsetDateTime,
    facility: Facility,
    subject: String,
    service: Option<String>,
    method: String,
    /// Set once the message has been read.
    request_id: Arc<OnceLock<String>>,
    /// Results of the call's requests, if it carries several that have rows of their own.
    requests: Arc<Mutex<Vec<(AuditedCall, Code)>>>,
}

/// Who makes an [`AuditedCall`].
pub(crate) struct Actor {
    pub(crate) facility: Facility,
    pub(crate) subject: String,
    pub(crate) service: Option<String>,
}

impl AuditedCall {
    /// A call of `method` that arrives now.
    pub(crate) fn new(actor: Actor, method: String, request_id: Arc<OnceLock<String>>) -> AuditedCall {
        AuditedCall {
            call_id: Uuid::new_v4(),
            at: OffsetDateTime::now_utc(),
            facility: actor.facility,
            subject: actor.subject,
            service: actor.service,
            method,
            request_id,
            requests: Arc::default(),
        }
    }

    /// One request of this call, audited as a call of its own.
    fn request(&self, request_id: &str) -> AuditedCall {
        AuditedCall {
            call_id: Uuid::new_v4(),
            at: OffsetDateTime::now_utc(),
            request_id: Arc::new(OnceLock::from(sanitize_request_id(request_id))),
            requests: Arc::default(),
            ..self.clone()
        }
    }

    /// Takes the requests that have ended, each with its code.
    pub(crate) fn take_requests(&self) -> Vec<(AuditedCall, Code)> {
        mem::take(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `work` as part of this call: effects in it are recorded with this call's row.
    pub(crate) async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The record of the call's end.
    pub(crate) fn into_record(self, status: &'static str) -> AuditRecord {
        AuditRecord {
            request_id: self.request_id.get().cloned(),
            call: self,
            status,
        }
    }
}

/// Runs `work` as one of several requests of the current call. If the call is audited, the request has a row of
/// its own, which is found by the `request_id`.
pub(crate) async fn run_request<R>(
    request_id: &str,
    work: impl Future<Output = Result<R, Status>>,
) -> Result<R, Status> {
    let Ok(call) = CURRENT.try_with(AuditedCall::clone) else {
        return work.await;
    };
    let request = call.request(request_id);
    let outcome = request.clone().scope(work).await;
    let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
    let mut ended = call.requests.lock().unwrap_or_else(PoisonError::into_inner);
    ended.push((request, code));
    drop(ended);
    outcome
}

/// Writes the row of the current call, if it is audited, in the transaction of its first effect. Call it where a
/// request's idempotency key is inserted; [`idempotency::acquire`](crate::idempotency::acquire) does.
///
/// # Errors
/// When the database fails.
pub async fn record_effect(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    record_effects(conn, [&Origin::current()]).await
}

/// The audited call that caused an effect, if there is one; for effects that are written by another task.
#[derive(Clone, Debug)]
pub struct Origin(Option<AuditedCall>);

impl Origin {
    /// The current call.
    pub fn current() -> Origin {
        Origin(CURRENT.try_with(AuditedCall::clone).ok())
    }
}

/// Runs `work` as part of the current call, in any task.
pub(crate) fn inherit<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let call = CURRENT.try_with(AuditedCall::clone).ok();
    async move {
        match call {
            Some(call) => call.scope(work).await,
            None => work.await,
        }
    }
}

/// As [`record_effect`], for the effects of several calls in one transaction.
///
/// # Errors
/// When the database fails.
pub async fn record_effects<'a>(
    conn: &mut PgConnection,
    origins: impl IntoIterator<Item = &'a Origin>,
) -> Result<(), sqlx::Error> {
    let calls: Vec<&AuditedCall> = origins
        .into_iter()
        .filter_map(|origin| origin.0.as_ref())
        .collect();
    if calls.is_empty() {
        return Ok(());
    }
    let facilities: Vec<_> = calls.iter().map(|call| call.facility.as_str()).collect();
    let subjects: Vec<_> = calls.iter().map(|call| call.subject.as_str()).collect();
    let services: Vec<_> = calls.iter().map(|call| call.service.as_deref()).collect();
    let methods: Vec<_> = calls.iter().map(|call| call.method.as_str()).collect();
    let request_ids: Vec<_> = calls
        .iter()
        .map(|call| call.request_id.get().map(String::as_str))
        .collect();
    sqlx::query!(
        "insert into chassis.audit (at, facility, subject, service, method, request_id, status, call_id)
         select distinct on (at, call_id) at, facility, subject, service, method, request_id, 'STARTED', call_id
         from unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[])
             as calls (at, facility, subject, service, method, request_id, call_id)
         order by at, call_id
         on conflict (at, call_id) do nothing",
        &calls.iter().map(|call| call.at).collect::<Vec<_>>(),
        &facilities as &[&str],
        &subjects as &[&str],
        &services as &[Option<&str>],
        &methods as &[&str],
        &request_ids as &[Option<&str>],
        &calls.iter().map(|call| call.call_id).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The end of one call of an audited method.
#[derive(Clone, Debug)]
pub(crate) struct AuditRecord {
    call: AuditedCall,
    request_id: Option<String>,
    status: &'static str,
}

impl AuditRecord {
    /// Logs the record, when it cannot be stored.
    pub(crate) fn log(&self, why: &str) {
        tracing::error!(
            audit.at = %self.call.at,
            audit.call_id = %self.call.call_id,
            audit.facility = %self.call.facility,
            audit.subject = self.call.subject,
            audit.service = self.call.service.as_deref().unwrap_or_default(),
            audit.method = self.call.method,
            audit.request_id = self.request_id.as_deref().unwrap_or_default(),
            audit.status = self.status,
            "{why}"
        );
    }
}
