//! The cost of idle endpoints: memory of each, and processor time.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use weft_mesh::{Channel, ChannelOptions, Policies};

use crate::measure::{allocated, cpu};

const ENDPOINTS: usize = 128;

/// The server's frames on an idle HTTP/2 connection: its settings, and the acknowledgement of the client's (RFC
/// 9113, section 6.5).
const SETTINGS_AND_ACKNOWLEDGEMENT: [u8; 18] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];

pub(crate) async fn print(lasting: Duration) {
    let mut uris = Vec::new();
    for _ in 0..ENDPOINTS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        uris.push(format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(hold(listener));
    }
    let target = format!("static:{}", uris.join(","));
    let options = ChannelOptions::new(target, "echo", "bench");
    let policies = Policies::from_methods([]);
    let none = used(lasting).await;
    let before = allocated();
    let channel = Channel::connect(options, &policies).unwrap();
    while channel
        .snapshot()
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.connected)
        .count()
        < ENDPOINTS
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let kib = (allocated() - before) as f64 / 1024.0 / ENDPOINTS as f64;
    let idle = used(lasting).await;
    println!("\n{ENDPOINTS} connected endpoints without calls");
    println!("memory of each   {kib:.1} KiB (the sockets' buffers in the kernel not counted)");
    println!("processor time   {idle:.0} us a second, {none:.0} without the channel");
    drop(channel);
}

/// Sends the settings and then only reads; its own memory is included in the result, and is small.
async fn hold(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(&SETTINGS_AND_ACKNOWLEDGEMENT).await.unwrap();
    let mut buffer = [0; 64];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// Microseconds of processor time per second.
async fn used(lasting: Duration) -> f64 {
    let before = cpu();
    tokio::time::sleep(lasting).await;
    (cpu() - before).as_secs_f64() * 1e6 / lasting.as_secs_f64()
}
