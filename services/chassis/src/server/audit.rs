//! Who did what: a row for every call of an audited method, refused ones included.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tonic::Code;

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next},
    telemetry::code_name,
};
use crate::{
    Identity, Process,
    audit::{self, Record},
};

/// How long an answer waits for room among the records when the database is slow.
const PATIENCE: Duration = Duration::from_millis(50);

pub(super) struct Layer {
    records: mpsc::Sender<Record>,
}

impl Layer {
    pub(super) fn new(process: &Process) -> Layer {
        Layer {
            records: audit::start(process),
        }
    }

    async fn keep(&self, record: Record) {
        if let Err(error) = self.records.send_timeout(record, PATIENCE).await {
            let (mpsc::error::SendTimeoutError::Timeout(record)
            | mpsc::error::SendTimeoutError::Closed(record)) = error;
            record.log("the audit trail is full: this record is kept in the log only");
        }
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        let method = match &call.method {
            Some(method) if method.policy.audited => method.clone(),
            _ => return next.run(call),
        };
        let Some(identity) = call.request.extensions().get::<Identity>().cloned() else {
            return next.run(call);
        };
        let request_id = Arc::clone(&call.request_id);
        Box::pin(async move {
            let response = next.run(call).await;
            // A single answer that is not a refusal has its OK in trailers, which are still to come.
            let code = response
                .headers()
                .get("grpc-status")
                .map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()));
            let record = Record {
                at: OffsetDateTime::now_utc(),
                facility: identity.facility,
                subject: identity.subject,
                service: identity.service,
                method: method.name.clone(),
                request_id: request_id.get().cloned(),
                status: code_name(code),
            };
            self.keep(record).await;
            response
        })
    }
}
