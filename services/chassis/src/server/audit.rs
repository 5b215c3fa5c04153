//! Writes an audit row for every call of an audited method, including rejected ones.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tonic::Code;

use weft_server::server::{Call, Layer as CallLayer, Next, Response};

use crate::{
    Identity, Process,
    audit::{self, Actor, AuditedCall, Writer},
};

pub(super) struct Layer {
    writer: Writer,
}

impl Layer {
    pub(super) fn new(process: &Process) -> Layer {
        Layer {
            writer: audit::start(process),
        }
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        let method = match call.method() {
            Some(method) if method.policy().audited => method,
            _ => return next.run(call),
        };
        let Ok(identity) = Identity::from_extensions(call.request.extensions()) else {
            return next.run(call);
        };
        let actor = Actor {
            facility: identity.facility.clone(),
            subject: identity.subject.clone(),
            service: identity.service.clone(),
        };
        let audited = AuditedCall::new(actor, method.name().to_owned(), Arc::clone(call.request_id()));
        Box::pin(async move {
            let response = audited.clone().scope(next.run(call)).await;
            for (request, code) in audited.take_requests() {
                self.writer
                    .enqueue(request.into_record(mesh::code::name(code)))
                    .await;
            }
            // The OK of a successful unary response is in its trailers, which follow later.
            let code = response
                .headers()
                .get("grpc-status")
                .map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()));
            self.writer
                .enqueue(audited.into_record(mesh::code::name(code)))
                .await;
            response
        })
    }
}
