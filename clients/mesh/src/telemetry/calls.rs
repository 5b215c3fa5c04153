//! The span and the duration of a call, as its caller sees it.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::BoxFuture;
use http::Response;
use tonic::{Status, body::Body};
use tower::Service;
use tracing::Instrument;

use super::{Measured, Metrics, Running, span};
use crate::{
    call::{Call, Outcome},
    code,
};

/// Measures each [`Call`] to the end of its response.
#[derive(Clone, Debug)]
pub(crate) struct Calls<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Calls<S> {
    pub(crate) fn new(inner: S, metrics: Arc<Metrics>) -> Calls<S> {
        Calls { inner, metrics }
    }
}

impl<S> Service<Call> for Calls<S>
where
    S: Service<Call, Response = Response<Body>, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Outcome>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let span = span::call(&call.method.name);
        let mut running = Running::new(Measured::Call, &self.metrics, &call.method, call.deadline, &span);
        let response = span.in_scope(|| self.inner.call(call));
        let measured = async move {
            match response.await {
                Err(status) => {
                    running.end(status.code());
                    Err(status)
                }
                Ok(response) => {
                    if let Some(code) = code::early(&response) {
                        running.end(code);
                    }
                    Ok(response.map(|body| running.track(body)))
                }
            }
        };
        Box::pin(measured.instrument(span))
    }
}
