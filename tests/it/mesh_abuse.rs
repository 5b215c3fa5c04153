//! Peers that abuse HTTP/2: the server's memory stays bounded, and others are served meanwhile.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use proto::order::v1::{ListOrdersRequest, order_service_client::OrderServiceClient};
use tests::{Hop, Hops, eventually};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tonic::{
    Code, Request,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};

use crate::mesh_fixture::{Caller, LIST, Load, hops, turn};

const LASTING: Duration = Duration::from_secs(2);
/// Maximum memory that one kind of abuse may use. KiB.
const COST: u64 = 16 * 1024;
/// Number of concurrent abusers.
const ABUSERS: u32 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Header fields as literals that are not indexed (RFC 7541, section 6.2.2).
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // Seven bits hold a length up to 126; a larger one continues in groups of seven bits.
            match text.len() {
                length @ 0..=126 => block.push(length as u8),
                length => {
                    block.push(127);
                    let mut rest = length - 127;
                    while rest > 127 {
                        block.push((rest % 128 + 128) as u8);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

fn call(bearer: &str) -> Vec<u8> {
    call_of(LIST, bearer)
}

fn call_of(path: &str, bearer: &str) -> Vec<u8> {
    literals(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "abuse"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &format!("Bearer {bearer}")),
    ])
}

/// Repeatedly opens a connection and sends `next` for as long as the server allows. Returns the number of
/// connections that the server closed, and of bytes sent.
async fn abuse(address: String, until: Instant, mut next: impl FnMut(u32) -> Vec<u8>) -> (u32, usize) {
    let (mut ended, mut sent) = (0, 0);
    while Instant::now() < until {
        let Ok(stream) = TcpStream::connect(&address).await else {
            break;
        };
        let (mut from, mut to) = stream.into_split();
        // Responses are read and discarded, or the server would wait for the abuser.
        let reader = tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
        let mut word = PREFACE.to_vec();
        word.extend(frame(SETTINGS, 0, 0, &[]));
        let mut turn = 0;
        let over = loop {
            if to.write_all(&word).await.is_err() {
                break true;
            }
            sent += word.len();
            if Instant::now() >= until {
                break reader.is_finished();
            }
            word = next(turn);
            turn += 1;
            tokio::task::yield_now().await;
        };
        reader.abort();
        ended += u32::from(over);
    }
    (ended, sent)
}

/// Runs an abuse beside a steady caller, and reports its cost.
async fn beside_a_caller<R>(title: &str, hops: &Hops, hop: &Hop, abuse: impl Future<Output = R>) -> R {
    let caller = Caller::new(hops, [hop]);
    caller.list().await.unwrap();
    let before = hop.memory_kib();
    let load = Load::start(50, move || {
        let caller = caller.clone();
        async move { caller.list().await }
    });
    let mut most = before;
    let mut abuse = pin!(abuse);
    let outcome = loop {
        tokio::select! {
            outcome = &mut abuse => break outcome,
            () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(hop.memory_kib()),
        }
    };
    most = most.max(hop.memory_kib());
    let calls = load.stop().await;
    println!(
        "{title}: memory {:.1} MiB before, {:.1} at most; others: {} calls, {} failed, p99 {:.0?}",
        before as f64 / 1024.0,
        most as f64 / 1024.0,
        calls.len(),
        calls.len() - calls.good(),
        calls.quantile(0.99),
    );
    assert_eq!(calls.good(), calls.len(), "{title}: {:?}", calls.failures());
    assert!(most < before + COST, "{title}: {before} KiB became {most}");
    outcome
}

/// Runs `ABUSERS` abusers concurrently; returns how many of their connections the server closed.
async fn crowd<N>(hop: &Hop, abuser: impl Fn() -> N) -> u32
where
    N: FnMut(u32) -> Vec<u8> + Send + 'static,
{
    let until = Instant::now() + LASTING;
    let abusers: Vec<_> = (0..ABUSERS)
        .map(|_| tokio::spawn(abuse(hop.address(), until, abuser())))
        .collect();
    let (mut ended, mut sent) = (0, 0);
    for abuser in abusers {
        let (connections, bytes) = abuser.await.unwrap();
        ended += connections;
        sent += bytes;
    }
    println!(
        "{ABUSERS} abusers sent {:.1} MiB, {ended} connections were ended",
        sent as f64 / f64::from(1 << 20)
    );
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_reset_end_their_connection() {
    let _turn = turn().await;
    let hops = hops();
    let hop = hops.start(&[]).await;
    let block = call(&hops.bearer());
    let ended = beside_a_caller(
        "rapid reset",
        &hops,
        &hop,
        crowd(&hop, || {
            let block = block.clone();
            move |turn| {
                let mut word = Vec::new();
                for place in 0..50 {
                    let stream = (turn * 50 + place) * 2 + 1;
                    word.extend(frame(HEADERS, END_HEADERS, stream, &block));
                    word.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                }
                word
            }
        }),
    )
    .await;
    assert!(ended > 0, "no connection was ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_headers_end_their_connection() {
    let _turn = turn().await;
    let hops = hops();
    let hop = hops.start(&[]).await;
    let filler = literals(&[("x-filler", &"a".repeat(8_000))]);
    let ended = beside_a_caller(
        "unending headers",
        &hops,
        &hop,
        crowd(&hop, || {
            let (block, filler) = (call("none"), filler.clone());
            move |turn| match turn {
                0 => frame(HEADERS, 0, 1, &block),
                _ => frame(CONTINUATION, 0, 1, &filler),
            }
        }),
    )
    .await;
    assert!(ended > 0, "no connection was ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_tiny_frames_use_no_memory() {
    let _turn = turn().await;
    let hops = hops();
    let hop = hops.start(&[]).await;
    let block = call(&hops.bearer());
    beside_a_caller(
        "empty and tiny frames",
        &hops,
        &hop,
        crowd(&hop, || {
            let block = block.clone();
            move |turn| match turn {
                0 => frame(HEADERS, END_HEADERS, 1, &block),
                turn => {
                    let kinds = [
                        frame(DATA, 0, 1, &[]),
                        frame(DATA, 0, 1, &[0]),
                        frame(PING, 0, 0, &[0; 8]),
                        frame(SETTINGS, 0, 0, &[]),
                    ];
                    kinds[turn as usize % kinds.len()].repeat(50)
                }
            }
        }),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_closed_to_admit_others() {
    let _turn = turn().await;
    let hops = hops();
    let hop = hops
        .start(&[
            ("grpc.max_connections", "200"),
            ("grpc.handshake_timeout_ms", "1000"),
            ("grpc.max_connection_idle_s", "1"),
        ])
        .await;
    beside_a_caller("idle connections", &hops, &hop, async {
        // Some send the HTTP/2 preface, and then nothing.
        let mut polite = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(hop.address()).await.unwrap();
            stream.write_all(PREFACE).await.unwrap();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            polite.push(stream);
        }
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(TcpStream::connect(hop.address()).await.unwrap());
        }
        // No slot is free, and a new client is still served when the silent connections time out.
        let newcomer = Caller::new(&hops, [&hop]);
        eventually(Duration::from_secs(8), || newcomer.list()).await;
        for mut stream in idle.into_iter().chain(polite) {
            let mut sink = tokio::io::sink();
            let end = tokio::io::copy(&mut stream, &mut sink);
            let ended = tokio::time::timeout(Duration::from_secs(8), end).await;
            assert!(ended.is_ok(), "a silent connection kept its place");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decompression_bomb_is_refused_before_it_is_decompressed() {
    let _turn = turn().await;
    let hops = hops();
    let hop = hops.start(&[]).await;
    let channel = Endpoint::from_shared(format!("http://{}", hop.address()))
        .unwrap()
        .connect_lazy();
    let bombs = async {
        for _ in 0..4 {
            let sent = (0..2).map(|_| bomb(channel.clone(), hops.bearer().to_string()));
            for code in futures_util::future::join_all(sent).await {
                assert_eq!(code, Code::Unimplemented);
            }
        }
    };
    beside_a_caller("decompression bombs", &hops, &hop, bombs).await;
}

/// 12 MiB that gzip makes 12 KiB of.
async fn bomb(channel: Channel, bearer: String) -> Code {
    let mut client = OrderServiceClient::new(channel).send_compressed(CompressionEncoding::Gzip);
    let mut request = Request::new(ListOrdersRequest {
        page_token: "a".repeat(12 << 20),
        ..ListOrdersRequest::default()
    });
    let token = format!("Bearer {bearer}").parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    client.list_orders(request).await.unwrap_err().code()
}

/// More calls than the server's concurrency limit, each without its message, from one clerk. One stream stays open
/// on each connection, so that it never counts as idle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_calls_do_not_lock_out_other_callers() {
    const PLACE: &str = "/order.v1.OrderService/PlaceOrder";
    let _turn = turn().await;
    let hops = hops();
    let hop = hops.start(&[]).await;
    beside_a_caller("half-sent calls", &hops, &hop, async {
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(hop.address()).await.unwrap();
            let mut word = PREFACE.to_vec();
            word.extend(frame(SETTINGS, 0, 0, &[]));
            let watch = call_of("/grpc.health.v1.Health/Watch", &hops.bearer());
            word.extend(frame(HEADERS, END_HEADERS, 1, &watch));
            word.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
            let half = call_of(PLACE, &hops.bearer());
            for call in 1..=171 {
                word.extend(frame(HEADERS, END_HEADERS, call * 2 + 1, &half));
            }
            stream.write_all(&word).await.unwrap();
            held.push(stream);
        }
        tokio::time::sleep(LASTING).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_sockets_on_the_probe_port_do_not_block_probes() {
    let _turn = turn().await;
    let hops = hops();
    let hop = hops.start(&[]).await;
    let mut silent = Vec::new();
    for n in 0..1_000 {
        let mut socket = TcpStream::connect(hop.probe_address()).await.unwrap();
        if n % 2 == 0 {
            socket.write_all(PREFACE).await.unwrap();
        }
        silent.push(socket);
        if n % 100 == 99 {
            hop.check_liveness().await.unwrap();
        }
    }
    for _ in 0..10 {
        hop.check_liveness().await.unwrap();
    }
}
