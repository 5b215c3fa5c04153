//! Calls for a while, and what they cost.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_stream::StreamExt;
use tonic::{Request, body::Body, client::GrpcService};
use tonic_prost::ProstCodec;

use crate::server::{READ, Text, WATCH};

/// Of one kind of call.
pub(crate) struct Figures {
    /// A second.
    pub(crate) rate: f64,
    /// Processor time of client and server together.
    pub(crate) cpu_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// So many calls are made before anything counts.
const WARM_UP: usize = 200;
/// The kernel counts processor time in these.
const TICK: Duration = Duration::from_millis(10);

/// Unary calls, so many at once.
pub(crate) async fn unary<C>(channel: &C, in_flight: usize, lasting: Duration) -> Figures
where
    C: GrpcService<Body> + Clone + Send + 'static,
    C::ResponseBody: Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    repeat(in_flight, lasting, async || read(channel).await).await
}

/// Streams of a hundred messages, one after the other.
pub(crate) async fn streamed<C>(channel: &C, lasting: Duration) -> Figures
where
    C: GrpcService<Body> + Clone + Send + 'static,
    C::ResponseBody: Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    repeat(1, lasting, async || watch(channel).await).await
}

async fn read<C>(channel: &C)
where
    C: GrpcService<Body> + Clone,
    C::ResponseBody: Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    assert!(client.ready().await.is_ok(), "the channel is not ready");
    let codec = ProstCodec::<Text, Text>::default();
    let path = http::uri::PathAndQuery::from_static(READ);
    client
        .unary(Request::new(Text::default()), path, codec)
        .await
        .unwrap();
}

async fn watch<C>(channel: &C)
where
    C: GrpcService<Body> + Clone,
    C::ResponseBody: Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    assert!(client.ready().await.is_ok(), "the channel is not ready");
    let codec = ProstCodec::<Text, Text>::default();
    let path = http::uri::PathAndQuery::from_static(WATCH);
    let answer = client.server_streaming(Request::new(Text::default()), path, codec);
    let mut messages = answer.await.unwrap().into_inner();
    while let Some(message) = messages.next().await {
        message.unwrap();
    }
}

async fn repeat(in_flight: usize, lasting: Duration, call: impl AsyncFn()) -> Figures {
    for _ in 0..WARM_UP {
        call().await;
    }
    let (began, cpu) = (Instant::now(), cpu());
    let workers = (0..in_flight).map(|_| async {
        let mut latencies = Vec::new();
        while began.elapsed() < lasting {
            let sent = Instant::now();
            call().await;
            latencies.push(sent.elapsed());
        }
        latencies
    });
    let mut latencies = join_all(workers).await.concat();
    let (took, cpu) = (began.elapsed(), self::cpu().saturating_sub(cpu));
    latencies.sort_unstable();
    let calls = latencies.len() as f64;
    let quantile = |share: f64| latencies[((calls - 1.0) * share) as usize].as_secs_f64() * 1e6;
    Figures {
        rate: calls / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / calls,
        p50_us: quantile(0.50),
        p99_us: quantile(0.99),
    }
}

/// What the process has used, in user and kernel mode.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The program's name, in brackets, may hold anything; the times are the 12th and 13th field behind it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u32>().unwrap())
        .sum();
    TICK * ticks
}
