//! Validates every message by the rules in the contract, so that handlers get valid messages only: the message of
//! a unary request, or each one of a stream.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context as Task, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::Frame;
use http_body_util::Full;
use prost_reflect::DynamicMessage;
use tonic::{Code, Status, body::Body};

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next, refuse},
    frames::{self, Frames},
    methods::Method,
    protocol::{MALFORMED_FRAME, MESSAGE_COUNT},
};
use crate::{
    Contract,
    contract::{self, text},
    status,
};

/// Characters of an invalid request id that are kept. A UUID has 36.
const MAX_REQUEST_ID_CHARS: usize = 64;

pub(super) struct Layer {
    contract: Option<Contract>,
    max_message_bytes: usize,
}

impl Layer {
    /// Without a contract nothing is validated.
    pub(super) fn new(contract: Option<Contract>, max_message_bytes: usize) -> Layer {
        Layer {
            contract,
            max_message_bytes,
        }
    }

    /// Validates the message of a unary request, and puts it back into the request.
    fn check(call: &mut Call, rules: &Rules) -> Result<(), Status> {
        let only = call.received.take().transpose()?;
        let only = only.ok_or_else(|| message_count("none"))?;
        rules.check(&call.request_id, only.clone())?;
        *call.request.body_mut() = Body::new(Full::new(only));
        Ok(())
    }

    /// Validates the messages of a stream as the handler reads them.
    fn check_stream(&self, call: &mut Call, rules: Rules) {
        let body = std::mem::take(call.request.body_mut());
        let frames = Frames::new(call.request.headers_mut(), self.max_message_bytes);
        *call.request.body_mut() = Body::new(ValidatedBody {
            body,
            frames,
            rules,
            request_id: Arc::clone(&call.request_id),
        });
    }
}

impl CallLayer for Layer {
    fn handle(&self, mut call: Call, next: Next) -> BoxFuture<'_, Response> {
        let (Some(contract), Some(method), true) = (&self.contract, &call.method, call.is_described()) else {
            return next.run(call);
        };
        let rules = Rules {
            contract: contract.clone(),
            method: method.clone(),
        };
        if rules.method.policy.client_streaming {
            self.check_stream(&mut call, rules);
            return next.run(call);
        }
        match Layer::check(&mut call, &rules) {
            Ok(()) => next.run(call),
            Err(refusal) => Box::pin(async { refuse(refusal) }),
        }
    }
}

/// The body of a stream: each message is validated before it is passed on, and the first invalid one ends the
/// stream with an error.
struct ValidatedBody {
    body: Body,
    frames: Frames,
    rules: Rules,
    request_id: Arc<OnceLock<String>>,
}

impl http_body::Body for ValidatedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(message) = self.frames.next()? {
                self.rules.check(&self.request_id, message.clone())?;
                return Poll::Ready(Some(Ok(Frame::data(message))));
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(task)) else {
                return Poll::Ready(check_complete(&self.frames).err().map(Err));
            };
            match frame.map_err(body_error)?.into_data() {
                Ok(piece) => self.frames.push(piece),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }
}

/// Maps the error at the end of a body: a closed connection, or an error of a layer above, which has details.
pub(super) fn body_error(error: Status) -> Status {
    if error.details().is_empty() {
        return Status::cancelled("the request was cut off");
    }
    error
}

/// Rejects a body that ends within a message.
pub(super) fn check_complete(frames: &Frames) -> Result<(), Status> {
    if frames.is_empty() {
        return Ok(());
    }
    Err(status::protocol(
        Code::Internal,
        MALFORMED_FRAME,
        "the request ends before its message does",
    ))
}

/// Rejects a call without exactly one message, with the code of gRPC's table (statuscodes.md).
pub(super) fn message_count(found: &str) -> Status {
    let text = format!("the request must be exactly one message; there is {found}");
    status::protocol(Code::Unimplemented, MESSAGE_COUNT, text)
}

/// The rules for the messages of a method.
struct Rules {
    contract: Contract,
    method: Arc<Method>,
}

impl Rules {
    fn check(&self, request_id: &OnceLock<String>, frame: Bytes) -> Result<(), Status> {
        let Some(input) = &self.method.input else {
            return Ok(());
        };
        let message = frames::message(frame);
        let decoded = DynamicMessage::decode(input.clone(), message.clone());
        let decoded = decoded.map_err(|error| contract::decode_error(input, &message, &error))?;
        if self.method.policy.has_request_id
            && let Some(id) = decoded.get_field_by_name("request_id")
            && let Some(id) = id.as_str()
        {
            // Kept for the audit trail even if the message is rejected below.
            let _ = request_id.set(sanitize_request_id(id));
        }
        self.contract.validate(decoded)
    }
}

/// A request id as it is kept and logged, also if it is rejected: one line of at most 64 characters, without control
/// characters.
pub fn sanitize_request_id(id: &str) -> String {
    text::sanitized(id, MAX_REQUEST_ID_CHARS).into_owned()
}
