//! Headers that HTTP/2 forbids, written byte by byte, because no client library sends them.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    abuse::{WAIT_LIMIT, ordinary},
    protocol::GET_ORDER,
    test_server::TestServer,
};

/// A header field as a literal without indexing and without Huffman coding (RFC 7541, section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127);
        field.push(text.len() as u8);
        field.extend_from_slice(text.as_bytes());
    }
    field
}

/// The response to a peer that writes raw bytes.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    Response,
    /// The stream ends with this error code (RFC 9113, section 7).
    Reset(u32),
    /// The connection ends with this error code.
    GoAway(u32),
}

/// The response to a request's header block, on a connection of its own.
async fn answer_to(server: &TestServer, block: &[u8]) -> Answered {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const END_STREAM_AND_HEADERS: u8 = 5;
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);
    sent.extend(&(block.len() as u32).to_be_bytes()[1..]);
    sent.extend([HEADERS, END_STREAM_AND_HEADERS, 0, 0, 0, 1]);
    sent.extend(block);
    tcp.write_all(&sent).await.unwrap();
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        tcp.read_exact(&mut payload).await.unwrap();
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            HEADERS => return Answered::Response,
            RST_STREAM => return Answered::Reset(code(0)),
            GOAWAY => return Answered::GoAway(code(4)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn headers_that_http2_forbids_end_their_stream_or_their_connection() {
    const PROTOCOL_ERROR: u32 = 1;
    let server = TestServer::start().await;
    let call = |path: &str, more: &[(&str, &str)]| {
        let mut block = literal(":method", "POST");
        block.extend(literal(":scheme", "http"));
        block.extend(literal(":path", path));
        block.extend(literal(":authority", "protocol"));
        block.extend(literal("content-type", "application/grpc"));
        block.extend(more.iter().flat_map(|(name, value)| literal(name, value)));
        block
    };
    for (block, expected) in [
        (call(GET_ORDER, &[("x-note", "a")]), Answered::Response),
        (
            call(GET_ORDER, &[("te", "gzip")]),
            Answered::Reset(PROTOCOL_ERROR),
        ),
        (
            call(GET_ORDER, &[("connection", "close")]),
            Answered::Reset(PROTOCOL_ERROR),
        ),
        (
            call("order.v1.OrderService/GetOrder", &[]),
            Answered::Reset(PROTOCOL_ERROR),
        ),
        (call("", &[]), Answered::Reset(PROTOCOL_ERROR)),
        (
            call(GET_ORDER, &[("X-Note", "a")]),
            Answered::GoAway(PROTOCOL_ERROR),
        ),
    ] {
        let answered = timeout(WAIT_LIMIT, answer_to(&server, &block))
            .await
            .expect("no peer hangs");
        assert_eq!(answered, expected, "{}", block.escape_ascii());
    }
    ordinary(&server).await.unwrap();
}
