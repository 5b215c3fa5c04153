//! A TCP link between two processes that a test makes slow, silent or dead, and points at another server.

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

/// Chunks on their way in one direction of a slow connection; beyond them the sender is made to wait.
const IN_FLIGHT: usize = 1_024;

/// Listens on a port of its own and carries every connection to a server, until it is dropped.
///
/// A fault holds until the next call of [`FaultyLink::heal`] or of another fault; there is one at a time.
#[derive(Debug)]
pub struct FaultyLink {
    address: SocketAddr,
    state: watch::Sender<State>,
    _listening: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug)]
struct State {
    server: String,
    fault: Fault,
    /// How often everything open was reset.
    cuts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Delay(Duration),
    BlackHole,
    Refuse,
}

impl FaultyLink {
    /// A link in good order to `server` (`127.0.0.1:4222`).
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn to(server: &str) -> FaultyLink {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("the system has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = watch::Sender::new(State {
            server: server.to_owned(),
            fault: Fault::None,
            cuts: 0,
        });
        let listening = tokio::spawn(listen(listener, state.subscribe()));
        FaultyLink {
            address,
            state,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    /// Where to connect instead of to the server: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Everything arrives this much later, in both directions, on open and on new connections.
    pub fn delay(&self, by: Duration) {
        self.set(Fault::Delay(by));
    }

    /// Connections are accepted and stay open, and whatever is sent either way vanishes. What lost bytes this way is
    /// reset when the fault ends.
    pub fn black_hole(&self) {
        self.set(Fault::BlackHole);
    }

    /// New connections are reset at once; open ones live on until [`FaultyLink::cut`].
    pub fn refuse(&self) {
        self.set(Fault::Refuse);
    }

    /// Ends the fault.
    pub fn heal(&self) {
        self.set(Fault::None);
    }

    /// Resets every open connection, once.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// New connections lead to `server`; open ones stay where they lead until [`FaultyLink::cut`].
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
                // A client that has gone already, or too many open files for a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends with a reset, unless both sides closed in order.
async fn connection(mut client: TcpStream, mut state: watch::Receiver<State>) {
    let born = state.borrow_and_update().clone();
    let carried = match born.fault {
        Fault::Refuse => Ok(false),
        Fault::BlackHole => swallow(&mut [&mut client], &mut state, born.cuts).await,
        Fault::None | Fault::Delay(_) => match TcpStream::connect(&born.server).await {
            Ok(mut server) => {
                let carried = carry(&mut client, &mut server, &mut state, born.cuts).await;
                if !matches!(carried, Ok(true)) {
                    let _ = server.set_zero_linger();
                }
                carried
            }
            Err(error) => Err(error),
        },
    };
    if !matches!(carried, Ok(true)) {
        let _ = client.set_zero_linger();
    }
}

/// True: both sides closed in order.
async fn carry(
    client: &mut TcpStream,
    server: &mut TcpStream,
    state: &mut watch::Receiver<State>,
    cuts: u64,
) -> io::Result<bool> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (there, back) = (state.clone(), state.clone());
        tokio::select! {
            closed = async { tokio::try_join!(pipe(from_client, to_server, there), pipe(from_server, to_client, back)) } =>
                return closed.map(|_| true),
            now = state.wait_for(|now| now.cuts != cuts || now.fault == Fault::BlackHole) =>
                if now.map_or(true, |now| now.cuts != cuts) { return Ok(false) },
        }
    }
    swallow(&mut [client, server], state, cuts).await
}

/// Loses what comes until the fault is over. The connection is of no use thereafter.
async fn swallow(
    ends: &mut [&mut TcpStream],
    state: &mut watch::Receiver<State>,
    cuts: u64,
) -> io::Result<bool> {
    let over = state.wait_for(|now| now.cuts != cuts || now.fault != Fault::BlackHole);
    let drained = ends.iter_mut().map(|end| async {
        let _ = tokio::io::copy(end, &mut tokio::io::sink()).await;
        // Even the end of the other side's stream does not come through.
        std::future::pending::<()>().await;
    });
    tokio::select! {
        _ = over => {}
        _ = futures_util::future::join_all(drained) => {}
    }
    Ok(false)
}

async fn pipe(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: watch::Receiver<State>,
) -> io::Result<()> {
    let (chunks, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
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
        while let Some((due, chunk)) = on_the_way.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}
