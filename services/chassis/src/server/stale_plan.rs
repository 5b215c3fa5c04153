//! Repeats a call once if a prepared statement did not match the schema any more, on a session without the
//! statement. So callers do not notice a migration that changes a column's type while the service runs.
//!
//! This is safe for every method: the failed transaction is rolled back, and what the call may have committed
//! before is found by its `request_id`, as when a client repeats the call.

use std::mem;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, request::Parts};
use http_body_util::{BodyExt, Full};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;

use weft_server::server::{Call, Layer as CallLayer, Next, Response, refuse};

use crate::status::PLAN_CHANGED;

pub(super) struct Layer;

impl CallLayer for Layer {
    fn handle(&self, mut call: Call, next: Next) -> BoxFuture<'_, Response> {
        if call
            .method()
            .is_none_or(|method| method.policy().client_streaming)
        {
            return next.run(call);
        }
        Box::pin(async move {
            let (parts, body) = mem::take(&mut call.request).into_parts();
            // The layers above have read it completely: the bytes are in memory, and copies share them.
            let bytes = match body.collect().await {
                Ok(collected) => collected.to_bytes(),
                Err(status) => return refuse(status),
            };
            let again = next.clone();
            call.request = request(parts.clone(), bytes.clone());
            let repetition = call.repetition(request(parts, bytes));
            let response = next.run(call).await;
            if !has_met_a_stale_plan(&response) {
                return response;
            }
            tracing::info!("a call is made once more: the schema has changed under it");
            again.run(repetition).await
        })
    }
}

fn request(parts: Parts, bytes: Bytes) -> Request<Body> {
    Request::from_parts(parts, Body::new(Full::new(bytes)))
}

fn has_met_a_stale_plan(response: &Response) -> bool {
    Status::from_header_map(response.headers())
        .filter(|status| status.code() == Code::Unavailable)
        .and_then(|status| status.get_error_details().error_info().cloned())
        .is_some_and(|info| info.reason == PLAN_CHANGED)
}
