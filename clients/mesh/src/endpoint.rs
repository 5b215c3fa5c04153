//! One connected server: its connection and what is known about it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as Task, Poll},
};

use http::{HeaderValue, Request, Uri, header, uri::PathAndQuery};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tonic::{Status, body::Body};

use crate::{
    call::AttemptOutcome,
    discovery::Address,
    failure::{self, Failure},
};

/// A connected endpoint. A new connection to the same address is a new endpoint with the same [`Vitals`].
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    pub(crate) vitals: Arc<Vitals>,
    sender: SendRequest<Body>,
    user_agent: HeaderValue,
}

/// What is known about an address beyond the life of one connection.
#[derive(Debug)]
pub(crate) struct Vitals {
    id: u64,
    in_flight: AtomicUsize,
}

impl Vitals {
    pub(crate) fn new(id: u64) -> Vitals {
        Vitals {
            id,
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Names the address within its channel.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Endpoint {
    pub(crate) fn new(
        address: Address,
        vitals: Arc<Vitals>,
        sender: SendRequest<Body>,
        user_agent: HeaderValue,
    ) -> Endpoint {
        Endpoint {
            address,
            vitals,
            sender,
            user_agent,
        }
    }

    /// Whether the connection still takes requests, as far as is known.
    pub(crate) fn open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// What a call costs here, compared with elsewhere.
    pub(crate) fn cost(&self) -> f64 {
        self.vitals.in_flight.load(Ordering::Relaxed) as f64
    }

    /// Sends one request and follows it to the end of its response.
    pub(crate) async fn send(self: Arc<Self>, mut request: Request<Body>) -> AttemptOutcome {
        let flight = Flight::start(Arc::clone(&self.vitals));
        address(&mut request, &self.address);
        request
            .headers_mut()
            .insert(header::USER_AGENT, self.user_agent.clone());
        let answer = self.sender.clone().try_send_request(request).await;
        match answer {
            Ok(response) => Ok(response.map(|body| {
                Body::new(Followed {
                    body,
                    endpoint: self,
                    _flight: flight,
                })
            })),
            Err(mut refused) => {
                let unsent = refused.take_message();
                let (error, name) = (refused.into_error(), self.address.authority.as_str());
                Err(match unsent {
                    Some(request) => Failure::unsent(error, name, request),
                    None => Failure::transport(error, name),
                })
            }
        }
    }
}

fn address(request: &mut Request<Body>, address: &Address) {
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

/// A call between its sending and the end of its response.
#[derive(Debug)]
struct Flight(Arc<Vitals>);

impl Flight {
    fn start(vitals: Arc<Vitals>) -> Flight {
        vitals.in_flight.fetch_add(1, Ordering::Relaxed);
        Flight(vitals)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body, whose errors get the code that [`failure`] decides.
struct Followed {
    body: Incoming,
    endpoint: Arc<Endpoint>,
    _flight: Flight,
}

impl HttpBody for Followed {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| failure::unavailable(error, self.endpoint.address.authority.as_str()))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
