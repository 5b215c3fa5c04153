//! The handlers of `grpc.testing.TestService`.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::testing::{
    BoolValue, EchoStatus, Empty, Payload, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
    StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
    test_service_server::TestService,
};

/// Largest payload of a response, in bytes.
const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;

/// The handlers. Weft's server takes no compressed requests and compresses no responses, so that a message that
/// reaches a handler was not compressed.
#[derive(Clone, Copy, Debug)]
pub struct Interop;

type Responses = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TestService for Interop {
    type StreamingOutputCallStream = Responses;
    type FullDuplexCallStream = Responses;
    type HalfDuplexCallStream = Responses;

    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let request = request.into_inner();
        check_uncompressed(request.expect_compressed)?;
        echo_status(request.response_status)?;
        Ok(Response::new(SimpleResponse {
            payload: Some(payload(request.response_type, request.response_size)?),
            ..SimpleResponse::default()
        }))
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Responses>, Status> {
        Ok(Response::new(respond(request.into_inner())))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let mut requests = request.into_inner();
        let mut bytes = 0;
        while let Some(request) = requests.try_next().await? {
            check_uncompressed(request.expect_compressed)?;
            bytes += request.payload.map_or(0, |payload| payload.body.len());
        }
        let aggregated_payload_size = i32::try_from(bytes)
            .map_err(|_| Status::out_of_range("the payloads have more than 2 GiB in all"))?;
        Ok(Response::new(StreamingInputCallResponse {
            aggregated_payload_size,
        }))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let responses = request.into_inner().map_ok(respond).try_flatten();
        Ok(Response::new(Box::pin(responses)))
    }

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let requests: Vec<_> = request.into_inner().try_collect().await?;
        let responses = stream::iter(requests).flat_map(respond);
        Ok(Response::new(Box::pin(responses)))
    }

    async fn cacheable_unary_call(
        &self,
        _: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        Err(Status::unimplemented("there is no caching proxy"))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("as the specification demands"))
    }
}

/// The responses to one request: its status, or a payload for each of its parameters.
fn respond(request: StreamingOutputCallRequest) -> Responses {
    if let Err(status) = echo_status(request.response_status) {
        return Box::pin(stream::once(async { Err(status) }));
    }
    let response_type = request.response_type;
    let responses = stream::iter(request.response_parameters).then(move |parameters| async move {
        let interval = u64::try_from(parameters.interval_us).unwrap_or_default();
        if interval > 0 {
            tokio::time::sleep(Duration::from_micros(interval)).await;
        }
        let payload = Some(payload(response_type, parameters.size)?);
        Ok(StreamingOutputCallResponse { payload })
    });
    Box::pin(responses)
}

fn check_uncompressed(expect_compressed: Option<BoolValue>) -> Result<(), Status> {
    match expect_compressed {
        Some(expected) if expected.value => Err(Status::invalid_argument("the request is not compressed")),
        _ => Ok(()),
    }
}

fn echo_status(status: Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 => Err(Status::new(Code::from_i32(status.code), status.message)),
        _ => Ok(()),
    }
}

fn payload(response_type: i32, size: i32) -> Result<Payload, Status> {
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size <= MAX_PAYLOAD_BYTES)
        .ok_or_else(|| Status::invalid_argument(format!("a payload has 0 to {MAX_PAYLOAD_BYTES} bytes")))?;
    Ok(Payload {
        r#type: response_type,
        body: vec![0; size],
    })
}
