//! A TCP proxy between two processes that a test makes slow, silent or dead, or points at another server.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

const CHUNK: usize = 16 << 10;

/// Chunks buffered in one direction of a slow connection; beyond them the sender has to wait.
const IN_FLIGHT: usize = 1_024;

/// Listens on a free port and forwards every connection to a server, until it is dropped.
///
/// A fault lasts until the next call of [`TcpFaultProxy::heal`] or of another fault; only one fault is active at a
/// time.
#[derive(Debug)]
pub struct TcpFaultProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    _listening: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug)]
struct State {
    server: String,
    fault: Fault,
    /// How often all open connections were reset.
    resets: u64,
    /// How often all open connections were stalled.
    stalls: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Delay(Duration),
    BlackHole,
    Refuse,
}

impl TcpFaultProxy {
    /// Starts a proxy without a fault to `server` (`127.0.0.1:4222`).
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(server: &str) -> TcpFaultProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("the system has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = watch::Sender::new(State {
            server: server.to_owned(),
            fault: Fault::None,
            resets: 0,
            stalls: 0,
        });
        let listening = tokio::spawn(listen(listener, state.subscribe()));
        TcpFaultProxy {
            address,
            state,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    /// The address to connect to instead of the server: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Delays all bytes in both directions, on open and on new connections.
    pub fn delay(&self, by: Duration) {
        self.set(Fault::Delay(by));
    }

    /// Accepts connections, keeps them open and discards all bytes in both directions. Connections that lost bytes
    /// are reset when the fault ends.
    pub fn black_hole(&self) {
        self.set(Fault::BlackHole);
    }

    /// Resets new connections at once; open ones continue until [`TcpFaultProxy::reset_connections`].
    pub fn refuse(&self) {
        self.set(Fault::Refuse);
    }

    /// Ends the fault.
    pub fn heal(&self) {
        self.set(Fault::None);
    }

    /// Resets every open connection, once.
    pub fn reset_connections(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }

    /// Silences every open connection, as when the server's machine disappears, until
    /// [`TcpFaultProxy::reset_connections`]. New connections are forwarded.
    pub fn stall_connections(&self) {
        self.state.send_modify(|state| state.stalls += 1);
    }

    /// Forwards new connections to `server`; open ones stay with their server until
    /// [`TcpFaultProxy::reset_connections`].
    pub fn point_to(&self, server: &str) {
        self.state
            .send_modify(|state| server.clone_into(&mut state.server));
    }

    fn set(&self, fault: Fault) {
        self.state.send_modify(|state| state.fault = fault);
    }
}

async fn listen(listener: TcpListener, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(connections.spawn(connection(client, state.clone()))),
                // The client has disconnected already, or too many files are open for a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What a connection does in the current state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Discard,
    Reset,
}

impl State {
    /// The mode of a connection that began in the state `initial`.
    fn mode(&self, initial: &State) -> Mode {
        if self.resets != initial.resets {
            Mode::Reset
        } else if self.fault == Fault::BlackHole || self.stalls != initial.stalls {
            Mode::Discard
        } else {
            Mode::Forward
        }
    }
}

/// Handles one connection. It ends with a reset, unless both sides closed it gracefully.
async fn connection(mut client: TcpStream, mut state: watch::Receiver<State>) {
    let initial = state.borrow_and_update().clone();
    let mut server = match initial.fault {
        Fault::None | Fault::Delay(_) => TcpStream::connect(&initial.server).await.ok(),
        Fault::BlackHole | Fault::Refuse => None,
    };
    if let Some(server) = &mut server
        && forward(&mut client, server, &mut state, &initial).await.is_ok()
    {
        return;
    }
    let ends = [Some(&mut client), server.as_mut()].into_iter().flatten();
    discard(ends, &mut state, &initial).await;
    for end in [Some(client), server].into_iter().flatten() {
        let _ = end.set_zero_linger();
    }
}

/// Forwards bytes both ways. Fails when the connection must no longer be forwarded, or one side resets it.
async fn forward(
    client: &mut TcpStream,
    server: &mut TcpStream,
    state: &mut watch::Receiver<State>,
    initial: &State,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let there = pipe(from_client, to_server, state.clone());
    let back = pipe(from_server, to_client, state.clone());
    tokio::select! {
        closed = async { tokio::try_join!(there, back) } => closed.map(drop),
        _ = state.wait_for(|now| now.mode(initial) != Mode::Forward) => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// Discards all bytes for as long as the connection is silent. It cannot be used afterwards.
async fn discard<'a>(
    ends: impl IntoIterator<Item = &'a mut TcpStream>,
    state: &mut watch::Receiver<State>,
    initial: &State,
) {
    let lost = ends.into_iter().map(|end| async move {
        let _ = tokio::io::copy(end, &mut tokio::io::sink()).await;
    });
    let lost = async {
        futures_util::future::join_all(lost).await;
        // The end of one side is not passed to the other either.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = state.wait_for(|now| now.mode(initial) != Mode::Discard) => {}
        () = lost => {}
    }
}

async fn pipe(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: watch::Receiver<State>,
) -> io::Result<()> {
    let (chunks, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let read = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            let delay = match state.borrow().fault {
                Fault::Delay(delay) => delay,
                _ => Duration::ZERO,
            };
            let chunk = (Instant::now() + delay, buffer[..length].to_vec());
            if chunks.send(chunk).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}
