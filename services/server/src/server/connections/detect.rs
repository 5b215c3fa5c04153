//! Detects the protocol of a connection by its first bytes: the HTTP/2 preface (RFC 9113, section 3.4), or another
//! protocol.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// Bytes of an HTTP/1 request that are read and discarded after the response.
const MAX_DISCARDED_BYTES: usize = 16 * 1024;

/// The protocol that the peer uses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The HTTP/2 preface; it must be read again.
    Http2,
    /// A request of HTTP/1.
    Http1,
    /// A TLS handshake.
    Tls,
    Other,
    /// The peer has closed the connection without sending anything.
    Closed,
}

impl Protocol {
    /// The protocol's name, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Protocol::Http2 => "HTTP/2",
            Protocol::Http1 => "HTTP/1",
            Protocol::Tls => "TLS",
            Protocol::Other => "something that is not HTTP/2",
            Protocol::Closed => "nothing",
        }
    }
}

/// Reads until the protocol is known. Has no timeout of its own.
pub(crate) async fn detect<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<Protocol> {
    let mut bytes = [0; PREFACE.len()];
    let mut length = 0;
    loop {
        match io.read(&mut bytes[length..]).await? {
            0 if length == 0 => return Ok(Protocol::Closed),
            0 => return Ok(Protocol::Other),
            read => length += read,
        }
        if let Some(protocol) = classify(&bytes[..length]) {
            return Ok(protocol);
        }
    }
}

/// `None` when more bytes are needed.
fn classify(bytes: &[u8]) -> Option<Protocol> {
    if PREFACE.starts_with(bytes) {
        return (bytes.len() == PREFACE.len()).then_some(Protocol::Http2);
    }
    if bytes[0] == TLS_HANDSHAKE {
        return Some(Protocol::Tls);
    }
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    match bytes.get(method) {
        Some(b' ') if method > 0 => Some(Protocol::Http1),
        None if method < PREFACE.len() => None,
        _ => Some(Protocol::Other),
    }
}

/// Whether the first byte, which is not consumed, starts a TLS handshake; `None` when the peer has closed the
/// connection.
pub(crate) async fn is_tls(tcp: &tokio::net::TcpStream) -> io::Result<Option<bool>> {
    let mut first = [0];
    Ok(match tcp.peek(&mut first).await? {
        0 => None,
        _ => Some(first[0] == TLS_HANDSHAKE),
    })
}

/// Responds to an HTTP/1 client with the protocol to use.
pub(crate) async fn respond_http1<IO>(io: &mut IO, text: &str) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let answer = format!(
        "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{text}\n",
        text.len() + 1
    );
    io.write_all(answer.as_bytes()).await?;
    io.shutdown().await?;
    // Closing with unread bytes would make TCP discard the response.
    let mut rest = io.take(MAX_DISCARDED_BYTES as u64);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

/// A connection whose HTTP/2 preface is read again.
#[derive(Debug)]
pub(crate) struct PrefixedIo<IO> {
    preface: Bytes,
    io: IO,
}

impl<IO> PrefixedIo<IO> {
    pub(crate) fn new(io: IO) -> PrefixedIo<IO> {
        PrefixedIo {
            preface: Bytes::from_static(PREFACE),
            io,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for PrefixedIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.preface.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, to);
        }
        let length = self.preface.len().min(to.remaining());
        to.put_slice(&self.preface[..length]);
        self.preface.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for PrefixedIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_recognized_by_its_first_bytes() {
        let cases: [(&[u8], Option<Protocol>); 8] = [
            (PREFACE, Some(Protocol::Http2)),
            (&PREFACE[..20], None),
            (b"P", None),
            (b"POST /order.v1.OrderServ", Some(Protocol::Http1)),
            (b"GET / HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"\x16\x03\x01", Some(Protocol::Tls)),
            (b"hello", Some(Protocol::Other)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAA", Some(Protocol::Other)),
        ];
        for (bytes, protocol) in cases {
            assert_eq!(
                classify(bytes),
                protocol,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[tokio::test]
    async fn a_preface_in_single_bytes_is_awaited_without_busy_polling() {
        let (mut peer, io) = tokio::io::duplex(64);
        let mut io = CountingIo { io, polls: 0 };
        let sent = async {
            for byte in PREFACE {
                peer.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (protocol, ()) = tokio::join!(detect(&mut io), sent);
        assert_eq!(protocol.unwrap(), Protocol::Http2);
        assert!(io.polls <= 2 * PREFACE.len(), "{} looks", io.polls);
        let mut again = vec![0; PREFACE.len()];
        PrefixedIo::new(io).read_exact(&mut again).await.unwrap();
        assert_eq!(again, PREFACE);
    }

    /// Counts reads.
    struct CountingIo<IO> {
        io: IO,
        polls: usize,
    }

    impl<IO: AsyncRead + Unpin> AsyncRead for CountingIo<IO> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            to: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.polls += 1;
            Pin::new(&mut self.io).poll_read(cx, to)
        }
    }
}
