//! gRPC's interoperability cases, by the mesh's client, with the names of the specification:
//! <https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{TryStreamExt as _, future::BoxFuture, stream};
use mesh::Context;
use tests::interop::testing::{
    BoolValue, EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingOutputCallRequest, StreamingOutputCallResponse,
    test_service_client::TestServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    codec::CompressionEncoding,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{interop_fixture::Peer, interop_wire::Flags};

type Run = for<'a> fn(&'a mut Peer) -> BoxFuture<'a, Result<()>>;

macro_rules! cases {
    ($($case:ident),* $(,)?) => { &[$((stringify!($case), |peer| Box::pin($case(peer)))),*] };
}

/// Every case that runs, by name.
pub(crate) const CASES: &[(&str, Run)] = cases![
    empty_unary,
    large_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
    status_code_and_message,
    special_status_message,
    custom_metadata,
    unimplemented_method,
    unimplemented_service,
    client_compressed_unary,
    client_compressed_streaming,
    server_compressed_unary,
    server_compressed_streaming,
];

pub(crate) const REQUEST_BYTES: usize = 271_828;
pub(crate) const RESPONSE_BYTES: usize = 314_159;
/// The payloads of requests and responses of the streaming cases.
pub(crate) const SIZES: [(usize, usize); 4] = [(27_182, 31_415), (8, 9), (1_828, 2_653), (45_904, 58_979)];
pub(crate) const MESSAGE: &str = "test status message";
pub(crate) const SPECIAL_MESSAGE: &str = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
pub(crate) const INITIAL: (&str, &str) = ("x-grpc-test-echo-initial", "test_initial_metadata_value");
const TRAILING: (&str, &[u8]) = ("x-grpc-test-echo-trailing-bin", &[0xab, 0xab, 0xab]);
/// A call with this header is reported by the servers.
const CASE: &str = "x-case";

async fn empty_unary(peer: &mut Peer) -> Result<()> {
    let response = peer.client().empty_call(Empty {}).await?;
    ensure!(response.into_inner() == Empty {});
    Ok(())
}

async fn large_unary(peer: &mut Peer) -> Result<()> {
    check_large(&peer.client().unary_call(large()).await?)
}

async fn client_streaming(peer: &mut Peer) -> Result<()> {
    let requests = SIZES.map(|(size, _)| input(size, None));
    let response = peer.client().streaming_input_call(stream::iter(requests)).await?;
    ensure!(
        response.get_ref().aggregated_payload_size == 74_922,
        "{response:?}"
    );
    Ok(())
}

async fn server_streaming(peer: &mut Peer) -> Result<()> {
    let sizes = SIZES.map(|(_, size)| size);
    let responses = peer.client().streaming_output_call(output(&sizes, None)).await?;
    let received = sizes_of(responses.into_inner()).await?;
    ensure!(received == sizes, "{received:?}");
    Ok(())
}

async fn ping_pong(peer: &mut Peer) -> Result<()> {
    let (sender, requests) = mpsc::channel(1);
    let (first, _) = SIZES[0];
    sender.send(output(&[SIZES[0].1], Some(first))).await?;
    let responses = peer
        .client()
        .full_duplex_call(ReceiverStream::new(requests))
        .await?;
    let mut responses = responses.into_inner();
    for (index, (sent, size)) in SIZES.into_iter().enumerate() {
        if index > 0 {
            sender.send(output(&[size], Some(sent))).await?;
        }
        let response = responses.try_next().await?;
        ensure!(response.map(bytes) == Some(size), "response {index}");
    }
    drop(sender);
    ensure!(responses.try_next().await?.is_none(), "a response too many");
    Ok(())
}

async fn empty_stream(peer: &mut Peer) -> Result<()> {
    let responses = peer.client().full_duplex_call(stream::empty()).await?;
    let received = sizes_of(responses.into_inner()).await?;
    ensure!(received.is_empty(), "{received:?}");
    Ok(())
}

/// A dropped call has no status here; that the server sees its cancellation says more.
async fn cancel_after_begin(peer: &mut Peer) -> Result<()> {
    let mut request = Request::new(stream::pending());
    let case = MetadataValue::from_static("cancel_after_begin");
    request.metadata_mut().insert(CASE, case);
    let mut client = peer.client();
    {
        let mut call = std::pin::pin!(client.streaming_input_call(request));
        tokio::select! {
            response = &mut call => bail!("the call ended: {response:?}"),
            begun = peer.prints("begin cancel_after_begin") => begun?,
        }
    }
    peer.prints("cancelled cancel_after_begin").await
}

async fn cancel_after_first_response(peer: &mut Peer) -> Result<()> {
    let (sender, requests) = mpsc::channel(1);
    sender.send(output(&[31_415], Some(27_182))).await?;
    let mut request = Request::new(ReceiverStream::new(requests));
    let case = MetadataValue::from_static("cancel_after_first_response");
    request.metadata_mut().insert(CASE, case);
    let mut responses = peer.client().full_duplex_call(request).await?.into_inner();
    ensure!(responses.try_next().await?.map(bytes) == Some(31_415));
    drop(responses);
    peer.prints("cancelled cancel_after_first_response").await?;
    drop(sender);
    Ok(())
}

async fn timeout_on_sleeping_server(peer: &mut Peer) -> Result<()> {
    let (sender, requests) = mpsc::channel(1);
    sender.send(output(&[], Some(27_182))).await?;
    let context = Context::new().with_timeout(Duration::from_millis(1));
    let request = context.request(ReceiverStream::new(requests));
    let ended = match peer.client().full_duplex_call(request).await {
        Ok(responses) => sizes_of(responses.into_inner()).await,
        Err(status) => Err(status),
    };
    drop(sender);
    check_status(ended, Code::DeadlineExceeded).map(drop)
}

async fn status_code_and_message(peer: &mut Peer) -> Result<()> {
    let unary = peer.client().unary_call(failing(MESSAGE)).await;
    let status = check_status(unary, Code::Unknown)?;
    ensure!(status.message() == MESSAGE, "{status:?}");
    let request = StreamingOutputCallRequest {
        response_status: failing(MESSAGE).response_status,
        ..StreamingOutputCallRequest::default()
    };
    let ended = match peer.client().full_duplex_call(stream::iter([request])).await {
        Ok(responses) => sizes_of(responses.into_inner()).await,
        Err(status) => Err(status),
    };
    let status = check_status(ended, Code::Unknown)?;
    ensure!(status.message() == MESSAGE, "{status:?}");
    Ok(())
}

async fn special_status_message(peer: &mut Peer) -> Result<()> {
    let status = peer.client().unary_call(failing(SPECIAL_MESSAGE)).await;
    let status = check_status(status, Code::Unknown)?;
    ensure!(status.message() == SPECIAL_MESSAGE, "{status:?}");
    Ok(())
}

async fn custom_metadata(peer: &mut Peer) -> Result<()> {
    // The client merges the trailers of a unary response into its metadata.
    let response = peer.client().unary_call(with_echo(large())).await?;
    check_initial(response.metadata())?;
    check_trailing(response.metadata())?;
    check_large(&response)?;

    let requests = stream::iter([output(&[RESPONSE_BYTES], Some(REQUEST_BYTES))]);
    let responses = peer.client().full_duplex_call(with_echo(requests)).await?;
    check_initial(responses.metadata())?;
    let mut responses = responses.into_inner();
    ensure!(responses.try_next().await?.map(bytes) == Some(RESPONSE_BYTES));
    ensure!(responses.try_next().await?.is_none(), "a response too many");
    check_trailing(&responses.trailers().await?.context("no trailers")?)
}

async fn unimplemented_method(peer: &mut Peer) -> Result<()> {
    let called = peer.client().unimplemented_call(Empty {}).await;
    check_status(called, Code::Unimplemented).map(drop)
}

async fn unimplemented_service(peer: &mut Peer) -> Result<()> {
    let called = peer.unknown_client().unimplemented_call(Empty {}).await;
    check_status(called, Code::Unimplemented).map(drop)
}

/// The handlers of these servers do not see whether a request was compressed, so there is no probe: that they read
/// it shows that its encoding was right, and the wire that it had one.
async fn client_compressed_unary(peer: &mut Peer) -> Result<()> {
    for compressed in [true, false] {
        let mut client = peer.client();
        if compressed {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        peer.wire.take_flags();
        let request = SimpleRequest {
            expect_compressed: Some(BoolValue { value: compressed }),
            ..large()
        };
        check_large(&client.unary_call(request).await?)?;
        check_flags(peer, &[compressed], &[false])?;
    }
    Ok(())
}

async fn client_compressed_streaming(peer: &mut Peer) -> Result<()> {
    let wire = peer
        .wire
        .sending(input(27_182, Some(true)), input(45_904, Some(false)));
    let client = TestServiceClient::new(wire.await);
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    peer.wire.take_flags();
    let response = client.streaming_input_call(stream::empty()).await?;
    ensure!(
        response.get_ref().aggregated_payload_size == 73_086,
        "{response:?}"
    );
    check_flags(peer, &[true, false], &[false])
}

async fn server_compressed_unary(peer: &mut Peer) -> Result<()> {
    for compressed in [true, false] {
        peer.wire.take_flags();
        let request = SimpleRequest {
            response_compressed: Some(BoolValue { value: compressed }),
            ..large()
        };
        let mut client = peer.client().accept_compressed(CompressionEncoding::Gzip);
        check_large(&client.unary_call(request).await?)?;
        check_flags(peer, &[false], &[compressed && peer.compresses])?;
    }
    Ok(())
}

async fn server_compressed_streaming(peer: &mut Peer) -> Result<()> {
    let parameters = |size, compressed| ResponseParameters {
        compressed: Some(BoolValue { value: compressed }),
        ..parameters(size)
    };
    let request = StreamingOutputCallRequest {
        response_parameters: vec![parameters(31_415, true), parameters(92_653, false)],
        ..StreamingOutputCallRequest::default()
    };
    peer.wire.take_flags();
    let mut client = peer.client().accept_compressed(CompressionEncoding::Gzip);
    let responses = client.streaming_output_call(request).await?;
    let received = sizes_of(responses.into_inner()).await?;
    ensure!(received == [31_415, 92_653], "{received:?}");
    check_flags(peer, &[false], &[peer.compresses, false])
}

fn large() -> SimpleRequest {
    SimpleRequest {
        response_size: RESPONSE_BYTES as i32,
        payload: Some(payload(REQUEST_BYTES)),
        ..SimpleRequest::default()
    }
}

fn failing(message: &str) -> SimpleRequest {
    SimpleRequest {
        response_status: Some(EchoStatus {
            code: Code::Unknown as i32,
            message: message.to_owned(),
        }),
        ..SimpleRequest::default()
    }
}

fn input(size: usize, expect_compressed: Option<bool>) -> StreamingInputCallRequest {
    StreamingInputCallRequest {
        payload: Some(payload(size)),
        expect_compressed: expect_compressed.map(|value| BoolValue { value }),
    }
}

fn output(sizes: &[usize], sent: Option<usize>) -> StreamingOutputCallRequest {
    StreamingOutputCallRequest {
        response_parameters: sizes.iter().copied().map(parameters).collect(),
        payload: sent.map(payload),
        ..StreamingOutputCallRequest::default()
    }
}

fn parameters(size: usize) -> ResponseParameters {
    ResponseParameters {
        size: size as i32,
        ..ResponseParameters::default()
    }
}

fn payload(size: usize) -> Payload {
    Payload {
        body: vec![0; size],
        ..Payload::default()
    }
}

fn with_echo<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(INITIAL.0, MetadataValue::from_static(INITIAL.1));
    metadata.insert_bin(TRAILING.0, MetadataValue::from_bytes(TRAILING.1));
    request
}

fn check_initial(metadata: &MetadataMap) -> Result<()> {
    let found = metadata.get(INITIAL.0).context("not among the headers")?;
    ensure!(found == INITIAL.1, "{found:?}");
    Ok(())
}

fn check_trailing(metadata: &MetadataMap) -> Result<()> {
    let found = metadata.get_bin(TRAILING.0).context("not among the trailers")?;
    ensure!(found.to_bytes()? == TRAILING.1, "{found:?}");
    Ok(())
}

fn check_large(response: &Response<SimpleResponse>) -> Result<()> {
    let found = response.get_ref().payload.as_ref();
    ensure!(found == Some(&payload(RESPONSE_BYTES)), "another payload");
    Ok(())
}

fn check_status<T>(outcome: Result<T, Status>, code: Code) -> Result<Status> {
    match outcome {
        Ok(_) => bail!("the call succeeded"),
        Err(status) if status.code() == code => Ok(status),
        Err(status) => bail!("{status:?}"),
    }
}

fn check_flags(peer: &Peer, sent: &[bool], received: &[bool]) -> Result<()> {
    let expected = Flags {
        sent: sent.to_vec(),
        received: received.to_vec(),
    };
    let found = peer.wire.take_flags();
    ensure!(found == expected, "{found:?} is not {expected:?}");
    Ok(())
}

async fn sizes_of(responses: Streaming<StreamingOutputCallResponse>) -> Result<Vec<usize>, Status> {
    responses.map_ok(bytes).try_collect().await
}

fn bytes(response: StreamingOutputCallResponse) -> usize {
    response.payload.map_or(0, |payload| payload.body.len())
}
