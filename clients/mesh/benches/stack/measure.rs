//! Makes calls for some time and measures their cost.

use std::{
    alloc::System,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio_stream::StreamExt;
use tonic::{Request, body::Body, client::GrpcService};
use tonic_prost::ProstCodec;

use crate::server::{READ, Text, WATCH};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The measurements of one kind of call.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Calls per second.
    pub(crate) rate: f64,
    /// Processor time of client and server together.
    pub(crate) cpu_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Allocations of client and server together.
    pub(crate) allocations: f64,
}

/// Number of calls before the measurement.
const WARM_UP: usize = 200;

/// Unary calls, `in_flight` at a time.
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
    let heap = Region::new(ALLOCATOR);
    let (began, cpu) = (Instant::now(), cpu());
    let workers = (0..in_flight).map(|_| async {
        let mut latencies = Vec::with_capacity(1 << 16);
        while began.elapsed() < lasting {
            let sent = Instant::now();
            call().await;
            latencies.push(sent.elapsed());
        }
        latencies
    });
    let mut latencies = join_all(workers).await.concat();
    let (took, cpu) = (began.elapsed(), self::cpu().saturating_sub(cpu));
    let allocations = heap.change().allocations as f64;
    latencies.sort_unstable();
    let calls = latencies.len() as f64;
    let quantile = |share: f64| latencies[((calls - 1.0) * share) as usize].as_secs_f64() * 1e6;
    Figures {
        rate: calls / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / calls,
        p50_us: quantile(0.50),
        p99_us: quantile(0.99),
        allocations: allocations / calls,
    }
}

/// Processor time used by the process.
pub(crate) fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// Bytes currently allocated.
pub(crate) fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}
