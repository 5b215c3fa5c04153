//! The TCP fault proxy of the harness.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tests::TcpFaultProxy;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Long enough for a byte that is forwarded to arrive.
const A_WHILE: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_proxy_forwards_delays_and_discards() {
    let link = TcpFaultProxy::start(&echo(b'a').await).await;
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(ask(&mut client).await.unwrap(), b'a');

    link.delay(Duration::from_millis(100));
    let asked = Instant::now();
    ask(&mut client).await.unwrap();
    assert!(
        asked.elapsed() >= Duration::from_millis(200),
        "{:?}",
        asked.elapsed()
    );

    link.black_hole();
    assert!(timeout(A_WHILE, ask(&mut client)).await.is_err());
    let mut late = TcpStream::connect(link.address()).await.unwrap();
    assert!(timeout(A_WHILE, ask(&mut late)).await.is_err());

    link.heal();
    for mut reset in [client, late] {
        assert!(timeout(SOON, ask(&mut reset)).await.unwrap().is_err());
    }
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(ask(&mut client).await.unwrap(), b'a');
}

#[tokio::test]
async fn a_proxy_refuses_resets_and_points_to_another_server() {
    let link = TcpFaultProxy::start(&echo(b'a').await).await;
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    ask(&mut client).await.unwrap();

    link.refuse();
    let refused = async { ask(&mut TcpStream::connect(link.address()).await?).await };
    assert!(timeout(SOON, refused).await.unwrap().is_err());
    assert_eq!(ask(&mut client).await.unwrap(), b'a');
    link.heal();

    link.point_to(&echo(b'b').await);
    assert_eq!(ask(&mut client).await.unwrap(), b'a');
    link.reset_connections();
    let error = timeout(SOON, ask(&mut client)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(ask(&mut client).await.unwrap(), b'b');

    link.stall_connections();
    assert!(timeout(A_WHILE, ask(&mut client)).await.is_err());
    let mut client = TcpStream::connect(link.address()).await.unwrap();
    assert_eq!(ask(&mut client).await.unwrap(), b'b');
}

async fn ask(client: &mut TcpStream) -> io::Result<u8> {
    client.write_all(b"?").await?;
    client.read_u8().await
}

/// A server that answers every byte with its own letter.
async fn echo(letter: u8) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                while client.read_u8().await.is_ok() {
                    client.write_all(&[letter]).await.unwrap();
                }
            });
        }
    });
    address.to_string()
}
