//! Cancels a call whose caller drops the response while its own stream is still open.
//!
//! hyper resets a stream when both of its halves are gone, and sends the caller's half in a task of its own: without
//! this, the server would work on until that half ends too, which may be at the deadline.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;
use tonic::{Status, body::Body};

use crate::policy::MethodPolicy;

/// Resets the stream of a call that has a response. Dropped before, it does nothing, because a request that was not sent
/// may be sent again.
#[derive(Debug)]
pub(crate) struct Cancellation(oneshot::Sender<()>);

/// Makes a request cancellable, if its caller may send a stream.
pub(crate) fn cancellable(
    policy: Option<&MethodPolicy>,
    request: Request<Body>,
) -> (Request<Body>, Option<Cancellation>) {
    if policy.is_some_and(|policy| policy.has_known_shape() && !policy.client_streaming) {
        return (request, None);
    }
    let (sender, cancelled) = oneshot::channel();
    let request = request.map(|body| {
        Body::new(CancellableBody {
            body,
            cancelled: Some(cancelled),
        })
    });
    (request, Some(Cancellation(sender)))
}

impl Cancellation {
    /// Cancels the call when the response's body is dropped, also at its end: nothing more needs to be sent then. A response
    /// without a body has ended.
    pub(crate) fn on_drop_of(self, response: Response<Body>) -> Response<Body> {
        response.map(|body| {
            Body::new(CancellingBody {
                body,
                cancellation: Some(self),
            })
        })
    }
}

/// A caller's stream, which fails once the call is cancelled.
struct CancellableBody {
    body: Body,
    cancelled: Option<oneshot::Receiver<()>>,
}

impl HttpBody for CancellableBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(cancelled) = &mut self.cancelled
            && let Poll::Ready(outcome) = Pin::new(cancelled).poll(cx)
        {
            self.cancelled = None;
            if outcome.is_ok() {
                return Poll::Ready(Some(Err(cancelled_by_caller())));
            }
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// hyper resets the stream with the code of this error's source.
fn cancelled_by_caller() -> Status {
    let mut status = Status::cancelled("the caller dropped the response");
    status.set_source(Arc::new(h2::Error::from(h2::Reason::CANCEL)));
    status
}

/// A response's body that cancels its call when it is dropped.
struct CancellingBody {
    body: Body,
    cancellation: Option<Cancellation>,
}

impl HttpBody for CancellingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for CancellingBody {
    fn drop(&mut self) {
        if let Some(Cancellation(sender)) = self.cancellation.take() {
            // The caller's stream may have ended.
            let _ = sender.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error as _, time::Duration};

    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// A stream of one message that does not end.
    fn open_stream() -> Request<Body> {
        use futures_util::{StreamExt as _, stream};
        let first = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))]);
        Request::new(Body::new(StreamBody::new(first.chain(stream::pending()))))
    }

    #[tokio::test]
    async fn a_dropped_response_resets_the_callers_open_stream() {
        let (mut request, cancellation) = cancellable(None, open_stream());
        let response = Response::new(open_stream().into_body());
        let response = cancellation.unwrap().on_drop_of(response);
        assert!(request.body_mut().frame().await.unwrap().is_ok());
        assert!(futures_util::poll!(request.body_mut().frame()).is_pending());
        drop(response);
        let status = request.body_mut().frame().await.unwrap().unwrap_err();
        let reason = status
            .source()
            .and_then(|source| source.downcast_ref::<h2::Error>());
        assert_eq!(reason.and_then(h2::Error::reason), Some(h2::Reason::CANCEL));
    }

    #[tokio::test]
    async fn a_request_without_a_response_can_be_sent_again() {
        let (request, cancellation) = cancellable(None, open_stream());
        drop(cancellation);
        let (mut request, _cancellation) = cancellable(None, request);
        assert!(request.body_mut().frame().await.unwrap().is_ok());
        assert!(futures_util::poll!(request.body_mut().frame()).is_pending());
    }

    #[test]
    fn a_single_request_is_left_as_it_is() {
        let unary = MethodPolicy::new(Duration::from_secs(1));
        let streaming = MethodPolicy {
            client_streaming: true,
            ..unary.clone()
        };
        let is_cancellable = |policy| cancellable(Some(policy), open_stream()).1.is_some();
        assert!(is_cancellable(&streaming) && !is_cancellable(&unary));
    }
}
