//! A channel that shows which messages of its calls are compressed on the wire: generated clients do not tell.

use std::{
    mem,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use futures_util::{FutureExt as _, TryFutureExt as _, future::BoxFuture, stream};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use mesh::Channel;
use tonic::{
    Status,
    body::Body,
    codec::{Codec as _, CompressionEncoding, EncodeBody},
    codegen::Service,
};
use tonic_prost::ProstCodec;

/// Bytes of a message's prefix: one for compression, four for the length.
const PREFIX: usize = 5;

/// Whether each message was compressed, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) sent: Vec<bool>,
    pub(crate) received: Vec<bool>,
}

#[derive(Clone)]
pub(crate) struct Wire {
    channel: Channel,
    flags: Arc<Mutex<Flags>>,
    /// Sent in place of what the client would send.
    body: Option<Bytes>,
}

impl Wire {
    pub(crate) fn new(channel: Channel) -> Wire {
        Wire {
            channel,
            flags: Arc::default(),
            body: None,
        }
    }

    /// The same channel for a client whose calls send these messages instead of its own, the first one compressed.
    pub(crate) async fn sending<M>(&self, compressed: M, plain: M) -> Wire
    where
        M: prost::Message + 'static,
    {
        let first = encode(compressed, Some(CompressionEncoding::Gzip)).await;
        let second = encode(plain, None).await;
        let body = [first, second].concat().into();
        Wire {
            body: Some(body),
            ..self.clone()
        }
    }

    /// What was seen since the last call of this.
    pub(crate) fn take_flags(&self) -> Flags {
        mem::take(&mut *self.flags.lock().unwrap())
    }
}

/// The message with its prefix.
async fn encode<M: prost::Message + 'static>(message: M, encoding: Option<CompressionEncoding>) -> Bytes {
    let encoder = ProstCodec::<M, ()>::default().encoder();
    let body = EncodeBody::new_client(encoder, stream::iter([Ok(message)]), encoding, None);
    body.collect().await.unwrap().to_bytes()
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let replaced = self.body.clone();
        let flags = Arc::clone(&self.flags);
        let request = request.map(|body| {
            let body = replaced.map_or(body, |bytes| Body::new(Full::new(bytes)));
            observe(body, move |flag| flags.lock().unwrap().sent.push(flag))
        });
        let flags = Arc::clone(&self.flags);
        let response = self.channel.call(request).map_ok(|response| {
            response.map(|body| observe(body, move |flag| flags.lock().unwrap().received.push(flag)))
        });
        response.boxed()
    }
}

/// Calls `record` for each message of the body, with whether it is compressed.
fn observe(body: Body, record: impl Fn(bool) + Send + 'static) -> Body {
    let (mut prefix, mut remaining) = (Vec::with_capacity(PREFIX), 0);
    Body::new(body.map_frame(move |frame| {
        let mut data = frame.data_ref().cloned().unwrap_or_default();
        while data.has_remaining() {
            let skipped = data.len().min(remaining);
            data.advance(skipped);
            remaining -= skipped;
            prefix.extend(data.split_to(data.len().min(PREFIX - prefix.len())));
            if let [flag, length @ ..] = &prefix[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                record(*flag == 1);
                remaining = u32::from_be_bytes(length) as usize;
                prefix.clear();
            }
        }
        frame
    }))
}
