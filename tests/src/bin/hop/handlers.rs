//! Handlers behind the server's layers: every method of the order service, all with the same behaviour.

use std::{
    convert::Infallible,
    task::{Context as Task, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream};
use mesh::{Channel, Context};
use proto::order::v1::{ListOrdersRequest, order_service_client::OrderServiceClient};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use crate::control::Control;

/// An uncompressed empty message, which is valid for every response type.
const EMPTY: &[u8] = &[0; 5];

#[derive(Clone)]
pub(crate) struct Handlers {
    /// Address of this hop, sent with every response.
    pub(crate) name: http::HeaderValue,
    pub(crate) control: Control,
    pub(crate) next: Option<OrderServiceClient<Channel>>,
}

impl Handlers {
    async fn work(self, context: &Context) -> Result<(), Status> {
        let work = self.control.begin(context);
        let (behavior, slots) = self.control.behavior();
        assert!(!behavior.panic, "the hop is set to panic");
        if behavior.refuse {
            work.finish(Duration::ZERO);
            return Err(Status::unavailable("the hop is set to refuse"));
        }
        let _slot = match slots {
            Some(slots) => slots.acquire_owned().await.ok(),
            None => None,
        };
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(behavior.work_ms)).await;
        let forwarded = match self.next {
            Some(mut next) => {
                let request = context.request(ListOrdersRequest::default());
                next.list_orders(request).await.map(drop)
            }
            None => Ok(()),
        };
        work.finish(began.elapsed());
        forwarded
    }
}

impl NamedService for Handlers {
    const NAME: &'static str = "order.v1.OrderService";
}

impl Service<http::Request<Body>> for Handlers {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let handlers = self.clone();
        Box::pin(async move {
            let name = handlers.name.clone();
            let context = request.extensions().get::<Context>().cloned().unwrap_or_default();
            Ok(match handlers.work(&context).await {
                Ok(()) => answer(name),
                Err(status) => status.into_http(),
            })
        })
    }
}

fn answer(name: http::HeaderValue) -> http::Response<Body> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = [
        Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(EMPTY))),
        Ok(http_body::Frame::trailers(trailers)),
    ];
    let mut response = http::Response::new(Body::new(http_body_util::StreamBody::new(stream::iter(frames))));
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/grpc"),
    );
    headers.insert(tests::hop_service::ANSWERED_BY, name);
    response
}
