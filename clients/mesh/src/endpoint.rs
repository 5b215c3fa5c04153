//! One connected server: its connection and its statistics.

pub(crate) mod breaker;
pub(crate) mod concurrency_limit;
pub(crate) mod latency_outlier;
mod load;
mod share;
pub(crate) mod stats;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Request, Uri, header, uri::PathAndQuery};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tonic::{Code, Status, body::Body};

use crate::{
    call::AttemptOutcome,
    code,
    connection::activity::Activity,
    discovery::Address,
    failure::{self, Failure, Reached},
    options::MIN_PING_INTERVAL,
    origin,
    telemetry::{Metrics, Running},
};
use stats::{InFlight, Stats, Verdict};

/// A connected endpoint. A new connection to the same address is a new endpoint with the same [`Stats`].
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    pub(crate) stats: Arc<Stats>,
    /// The server's socket address.
    pub(crate) peer: Option<SocketAddr>,
    sender: SendRequest<Body>,
    activity: Arc<Activity>,
    channel_info: Arc<ChannelInfo>,
}

/// Values shared by all endpoints of a channel.
#[derive(Debug)]
pub(crate) struct ChannelInfo {
    pub(crate) user_agent: HeaderValue,
    /// The shortest interval at which the channel pings a server.
    pub(crate) ping_interval: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl Endpoint {
    pub(crate) fn new(
        address: Address,
        stats: Arc<Stats>,
        (sender, activity, peer): (SendRequest<Body>, Arc<Activity>, Option<SocketAddr>),
        channel_info: Arc<ChannelInfo>,
    ) -> Endpoint {
        stats.set_max_streams(activity.max_streams());
        Endpoint {
            address,
            stats,
            peer,
            sender,
            activity,
            channel_info,
        }
    }

    /// Whether the connection still accepts requests, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Whether a ping is overdue: the server may be gone without having closed the connection.
    pub(crate) fn ping_overdue(&self) -> bool {
        self.activity.ping_overdue()
    }

    /// How long calls have been waiting without any byte received from the server.
    pub(crate) fn silent_for(&self) -> Duration {
        self.activity.silent_for()
    }

    /// Sends one request and records its result at the end of the response.
    pub(crate) async fn send(
        self: Arc<Self>,
        mut in_flight: InFlight,
        mut running: Option<Running>,
        mut request: Request<Body>,
    ) -> AttemptOutcome {
        // The server may have sent or changed its limit of concurrent streams.
        self.stats.set_max_streams(self.activity.max_streams());
        set_target(&mut request, &self.address);
        request
            .headers_mut()
            .insert(header::USER_AGENT, self.channel_info.user_agent.clone());
        let waiting = self.activity.begin_wait();
        let result = self.sender.clone().try_send_request(request).await;
        drop(waiting);
        match result {
            Ok(response) => {
                in_flight.record_headers();
                let response = response.map(|body| TrackedBody {
                    body,
                    endpoint: Arc::clone(&self),
                    in_flight,
                    running,
                });
                Ok(self.record_headers(response))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                let failure = match unsent {
                    Some(request) => Failure::unsent(error.into_error(), &self.address, request),
                    None => Failure::transport(error.into_error(), &self.address),
                };
                // A request refused by a closing connection says nothing about the server.
                if failure.reached == Reached::Never {
                    in_flight.discard();
                } else {
                    in_flight.finish(Verdict::Bad);
                }
                if let Some(running) = &mut running {
                    running.end(failure.status.code());
                }
                Err(failure)
            }
        }
    }

    /// Sends a request of the mesh itself, such as a health check, without recording it in the statistics.
    pub(crate) async fn send_uncounted(
        self: Arc<Self>,
        mut request: Request<Body>,
    ) -> hyper::Result<http::Response<Incoming>> {
        set_target(&mut request, &self.address);
        request
            .headers_mut()
            .insert(header::USER_AGENT, self.channel_info.user_agent.clone());
        let _waiting = self.activity.begin_wait();
        self.sender.clone().send_request(request).await
    }

    /// Notes that the server allows pings at our interval.
    fn record_announcement(&self, headers: &HeaderMap) {
        if !self.activity.allows_pings()
            && min_ping_interval(headers).is_some_and(|minimum| minimum <= self.channel_info.ping_interval)
        {
            self.stats.set_allows_pings(true);
            self.activity.set_allows_pings();
        }
    }

    /// Records what the response headers contain, which may already be the final status.
    fn record_headers(&self, response: http::Response<TrackedBody>) -> http::Response<Body> {
        let (mut parts, mut body) = response.into_parts();
        origin::mark_received(&mut parts.headers);
        self.record_announcement(&parts.headers);
        let mut response = http::Response::from_parts(parts, Body::empty());
        if let Some(code) = code::early(&response) {
            body.in_flight
                .finish(Verdict::from_code(code, response.headers()));
            if let Some(running) = &mut body.running {
                running.end(code);
            }
        }
        *response.body_mut() = Body::new(body);
        response
    }
}

/// The shortest ping interval that the server announces.
fn min_ping_interval(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(MIN_PING_INTERVAL)?.to_str().ok()?;
    Some(Duration::from_millis(value.parse().ok()?))
}

fn set_target(request: &mut Request<Body>, address: &Address) {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(address.scheme.clone());
    parts.authority = Some(address.authority.clone());
    parts.path_and_query = Some(
        request
            .uri()
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
    );
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are set");
}

/// A response's body that records the result of the call, and maps errors to the code that [`failure`] decides.
struct TrackedBody {
    body: Incoming,
    endpoint: Arc<Endpoint>,
    in_flight: InFlight,
    running: Option<Running>,
}

impl TrackedBody {
    fn record_trailers(&mut self, trailers: &HeaderMap) {
        let code = trailers
            .get("grpc-status")
            .map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
        self.in_flight.finish(Verdict::from_code(code, trailers));
    }
}

impl HttpBody for TrackedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = &mut *self;
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(match frame.into_trailers() {
                Ok(mut trailers) => {
                    origin::mark_received(&mut trailers);
                    this.record_trailers(&trailers);
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            })),
            Some(Err(error)) => {
                this.in_flight.finish(Verdict::Bad);
                Some(Err(failure::unavailable(error, &this.endpoint.address)))
            }
            // A response that ends without a status was cut off.
            None => {
                this.in_flight.finish(Verdict::Bad);
                None
            }
        };
        if let Some(running) = &mut this.running {
            running.record_frame(frame.as_ref());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
