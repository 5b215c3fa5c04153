//! One connected server: its connection and what is known about it.

pub(crate) mod breaker;
mod load;
pub(crate) mod room;
mod share;
pub(crate) mod slowness;
pub(crate) mod vitals;

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
    call::{AttemptOutcome, early_code},
    connection::pulse::Pulse,
    discovery::Address,
    failure::{self, Failure, Reached},
    options::MIN_PING_INTERVAL,
    origin,
    telemetry::{Metrics, Running},
};
use vitals::{Flight, Verdict, Vitals};

/// A connected endpoint. A new connection to the same address is a new endpoint with the same [`Vitals`].
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    pub(crate) vitals: Arc<Vitals>,
    /// The other end of the connection.
    pub(crate) peer: Option<SocketAddr>,
    sender: SendRequest<Body>,
    pulse: Arc<Pulse>,
    caller: Arc<Caller>,
}

/// Who calls: the same for all endpoints of a channel.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) user_agent: HeaderValue,
    /// How often it would ping a server.
    pub(crate) ping_interval: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl Endpoint {
    pub(crate) fn new(
        address: Address,
        vitals: Arc<Vitals>,
        (sender, pulse, peer): (SendRequest<Body>, Arc<Pulse>, Option<SocketAddr>),
        caller: Arc<Caller>,
    ) -> Endpoint {
        vitals.set_streams(pulse.streams());
        Endpoint {
            address,
            vitals,
            peer,
            sender,
            pulse,
            caller,
        }
    }

    /// Whether the connection still takes requests, as far as is known.
    pub(crate) fn open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Whether the server owes the answer to a ping: it may be gone without a word.
    pub(crate) fn silent(&self) -> bool {
        self.pulse.overdue()
    }

    /// For how long calls have waited and nothing at all has come from the server.
    pub(crate) fn unheard(&self) -> Duration {
        self.pulse.unheard()
    }

    /// Sends one request and follows it to the end of its response.
    pub(crate) async fn send(
        self: Arc<Self>,
        mut flight: Flight,
        mut running: Option<Running>,
        mut request: Request<Body>,
    ) -> AttemptOutcome {
        // The server may have told, or changed, how many streams it allows.
        self.vitals.set_streams(self.pulse.streams());
        aim(&mut request, &self.address);
        request
            .headers_mut()
            .insert(header::USER_AGENT, self.caller.user_agent.clone());
        let waiting = self.pulse.wait();
        let sent = self.sender.clone().try_send_request(request).await;
        drop(waiting);
        match sent {
            Ok(response) => {
                flight.answered();
                let response = response.map(|body| Followed {
                    body,
                    endpoint: Arc::clone(&self),
                    flight,
                    running,
                });
                Ok(self.judge(response))
            }
            Err(mut refused) => {
                let unsent = refused.take_message();
                let failure = match unsent {
                    Some(request) => Failure::unsent(refused.into_error(), &self.address, request),
                    None => Failure::transport(refused.into_error(), &self.address),
                };
                // A connection that is being closed says nothing about the server behind it.
                if failure.reached == Reached::Never {
                    flight.forget();
                } else {
                    flight.settle(Verdict::Bad);
                }
                if let Some(running) = &mut running {
                    running.end(failure.status.code());
                }
                Err(failure)
            }
        }
    }

    /// Sends a request of the mesh's own, which says nothing about load.
    pub(crate) async fn send_uncounted(
        self: Arc<Self>,
        mut request: Request<Body>,
    ) -> hyper::Result<http::Response<Incoming>> {
        aim(&mut request, &self.address);
        request
            .headers_mut()
            .insert(header::USER_AGENT, self.caller.user_agent.clone());
        let _waiting = self.pulse.wait();
        self.sender.clone().send_request(request).await
    }

    fn note_announcement(&self, headers: &HeaderMap) {
        if !self.pulse.bears_pings()
            && min_ping_interval(headers).is_some_and(|least| least <= self.caller.ping_interval)
        {
            self.vitals.set_bears_pings(true);
            self.pulse.announced();
        }
    }

    /// Books what the headers tell already.
    fn judge(&self, response: http::Response<Followed>) -> http::Response<Body> {
        let (mut parts, mut body) = response.into_parts();
        origin::receive(&mut parts.headers);
        self.note_announcement(&parts.headers);
        let mut response = http::Response::from_parts(parts, Body::empty());
        if let Some(code) = early_code(&response) {
            body.flight.settle(Verdict::of(code, response.headers()));
            if let Some(running) = &mut body.running {
                running.end(code);
            }
        }
        *response.body_mut() = Body::new(body);
        response
    }
}

/// How often the server may be pinged, by its own word.
fn min_ping_interval(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(MIN_PING_INTERVAL)?.to_str().ok()?;
    Some(Duration::from_millis(value.parse().ok()?))
}

fn aim(request: &mut Request<Body>, address: &Address) {
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
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
}

/// A response's body: books how the call ended, and gives errors the code that [`failure`] decides.
struct Followed {
    body: Incoming,
    endpoint: Arc<Endpoint>,
    flight: Flight,
    running: Option<Running>,
}

impl Followed {
    fn finish(&mut self, trailers: &HeaderMap) {
        let code = trailers
            .get("grpc-status")
            .map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
        self.flight.settle(Verdict::of(code, trailers));
    }
}

impl HttpBody for Followed {
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
                    origin::receive(&mut trailers);
                    this.finish(&trailers);
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            })),
            Some(Err(error)) => {
                this.flight.settle(Verdict::Bad);
                Some(Err(failure::unavailable(error, &this.endpoint.address)))
            }
            // An answer that ends without a status was cut off.
            None => {
                this.flight.settle(Verdict::Bad);
                None
            }
        };
        if let Some(running) = &mut this.running {
            running.see(frame.as_ref());
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
