//! The rules that stand in the contract, checked once for all handlers of single requests. Streams are checked by their
//! handlers, message by message, with [`validate`](crate::validate).

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost_reflect::DynamicMessage;
use tonic::{Status, body::Body};

use super::{
    Response,
    call::{Call, Layer as CallLayer, Method, Next, refuse},
};
use crate::{contract, status};

/// One byte says whether the message is compressed, four its length.
const PREFIX: usize = 5;

pub(super) struct Layer {
    max_message_bytes: usize,
}

impl Layer {
    pub(super) fn new(max_message_bytes: usize) -> Layer {
        Layer { max_message_bytes }
    }

    async fn check(&self, call: &mut Call, method: &Method) -> Result<(), Status> {
        let body = std::mem::take(call.request.body_mut());
        let collected = Limited::new(body, self.max_message_bytes + PREFIX)
            .collect()
            .await;
        let bytes = collected.map_err(|error| self.unread(&*error))?.to_bytes();
        if bytes.len() >= PREFIX {
            let message = read(method, bytes.clone())?;
            if method.policy.has_request_id
                && let Some(id) = message.get_field_by_name("request_id")
                && let Some(id) = id.as_str()
            {
                // Set once: nobody reads the message twice.
                let _ = call.request_id.set(id.to_owned());
            }
            contract::validate_dynamic(&message)?;
        }
        *call.request.body_mut() = Body::new(Full::new(bytes));
        Ok(())
    }

    fn unread(&self, error: &(dyn std::error::Error + Send + Sync + 'static)) -> Status {
        if error.is::<LengthLimitError>() {
            let text = format!("the message is larger than {} bytes", self.max_message_bytes);
            let mut refusal = status::exhausted("MESSAGE_TOO_LARGE", text, std::time::Duration::ZERO);
            // It will not be smaller the next time.
            refusal.metadata_mut().insert(
                "grpc-retry-pushback-ms",
                tonic::metadata::MetadataValue::from_static("-1"),
            );
            return refusal;
        }
        Status::cancelled("the request was cut off")
    }
}

impl CallLayer for Layer {
    fn handle(&self, mut call: Call, next: Next) -> BoxFuture<'_, Response> {
        let method = match &call.method {
            Some(method) if !method.policy.client_streaming => method.clone(),
            _ => return next.run(call),
        };
        Box::pin(async move {
            match self.check(&mut call, &method).await {
                Ok(()) => next.run(call).await,
                Err(refusal) => refuse(refusal),
            }
        })
    }
}

/// The message behind its prefix.
fn read(method: &Method, mut frame: Bytes) -> Result<DynamicMessage, Status> {
    if frame.get_u8() != 0 {
        let text = "compressed requests are not taken: send them with `grpc-encoding: identity`";
        return Err(status::unimplemented("COMPRESSED", text));
    }
    let length = frame.get_u32() as usize;
    if length != frame.len() {
        return Err(status::invalid_field("", "must be exactly one message"));
    }
    DynamicMessage::decode(method.input.clone(), frame).map_err(|error| {
        status::invalid_field(
            "",
            format!("cannot be decoded as {}: {error}", method.policy.input),
        )
    })
}
