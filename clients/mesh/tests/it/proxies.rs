//! Connections through an HTTP proxy.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use rcgen::SanType;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tonic::{
    Code,
    transport::{Identity, ServerTlsConfig},
};
use weft_mesh::{Channel, ChannelOptions, Tls};

use crate::{
    echo::{self, READ, Server},
    tls::{authority, issue_for},
};

/// A proxy that opens tunnels to the names that it knows, and refuses all others.
struct Proxy {
    address: SocketAddr,
    _connections: JoinSet<()>,
}

impl Proxy {
    async fn start(names: &[(&str, SocketAddr)]) -> Proxy {
        let names = names.iter().map(|(name, address)| ((*name).to_owned(), *address));
        let names: Arc<HashMap<_, _>> = Arc::new(names.collect());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tunnels.spawn(tunnel(client, Arc::clone(&names)));
            }
        });
        Proxy {
            address,
            _connections: connections,
        }
    }
}

async fn tunnel(mut client: TcpStream, names: Arc<HashMap<String, SocketAddr>>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    assert_eq!(words.next(), Some("CONNECT"));
    match names.get(words.next().unwrap()) {
        Some(server) => {
            let mut server = TcpStream::connect(server).await?;
            client
                .write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                .await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
        None => {
            let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nnone";
            client.write_all(answer).await?;
        }
    }
    Ok(())
}

fn options(target: &str, proxy: &Proxy) -> ChannelOptions {
    let mut options = echo::options(&[]);
    options.target = target.to_owned();
    options.tuning.proxy = Some(format!("http://{}", proxy.address));
    options
}

#[tokio::test]
async fn a_proxy_opens_the_connection_and_resolves_the_name() {
    let server = Server::start(|_| async { Ok("served".to_owned()) });
    let proxy = Proxy::start(&[("echo.test:80", server.address)]).await;
    let options = options("static:http://echo.test:80", &proxy);
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "served");
    assert_eq!(channel.snapshot().endpoints[0].address, "echo.test:80");
}

#[tokio::test]
async fn tls_goes_through_the_proxy_to_the_server() {
    let authority = authority();
    let names = vec![SanType::DnsName("echo.test".try_into().unwrap())];
    let (certificate, key) = issue_for(&authority, names);
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    let server = Server::with_tls(tls, |_| async { Ok("secured".to_owned()) });
    let proxy = Proxy::start(&[("echo.test:443", server.address)]).await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let mut options = options("static:https://echo.test:443", &proxy);
    options.tuning.tls = Some(Tls {
        ca_file: Some(ca_file),
        ..Tls::default()
    });
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "secured");
}

#[tokio::test]
async fn the_reason_of_a_proxy_without_a_tunnel_is_in_the_status() {
    let proxy = Proxy::start(&[]).await;
    let mut absent = options("static:http://echo.test:80", &proxy);
    absent.tuning.proxy = Some(format!("http://{}", echo::unused_address()));
    for (options, reason) in [
        (options("static:http://echo.test:80", &proxy), "407"),
        (absent, "cannot connect to the proxy"),
    ] {
        let channel = Channel::connect(options, &echo::policies()).unwrap();
        let status = echo::call_empty(&channel, READ).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(reason), "{}", status.message());
    }
}

#[tokio::test]
async fn a_proxy_setting_that_cannot_be_used_is_an_error() {
    let proxy = Proxy::start(&[]).await;
    let mut invalid = options("static:http://echo.test:80", &proxy);
    invalid.tuning.proxy = Some("socks5://proxy:1080".to_owned());
    let unix = options("unix:/run/echo.sock", &proxy);
    for options in [invalid, unix] {
        let error = Channel::connect(options, &echo::policies()).unwrap_err();
        assert!(error.to_string().contains("`proxy`"), "{error}");
    }
}
