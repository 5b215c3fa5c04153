//! NATS with JetStream, which syncs every write to disk before it acknowledges.

use std::time::Duration;

use tokio::{io::AsyncReadExt as _, net::TcpStream};

use super::{process::Program, programs::Programs, readiness, supervisor::Supervised};
use crate::workspace::{Workspace, write_private};

/// A running server.
pub(crate) struct Nats {
    pub(crate) port: u16,
    /// The HTTP port at which services check `sync_interval`.
    pub(crate) monitor_port: u16,
    pub(crate) process: Supervised,
}

impl Nats {
    pub(crate) async fn start(
        workspace: &Workspace,
        programs: &Programs,
        [port, monitor_port]: [u16; 2],
    ) -> anyhow::Result<Nats> {
        let config = workspace.config("nats.conf");
        let store = workspace.path().join("nats");
        // Without `always` a power failure would lose acknowledged events.
        let text = format!(
            "server_name: weft-local\n\
             listen: \"127.0.0.1:{port}\"\n\
             http: \"127.0.0.1:{monitor_port}\"\n\
             jetstream {{\n  store_dir: \"{}\"\n  sync_interval: always\n}}\n",
            store.display()
        );
        write_private(&config, text.as_bytes())?;
        let program = Program {
            name: "nats",
            path: programs.nats.clone(),
            arguments: vec!["-c".to_owned(), config.display().to_string()],
            log: workspace.log("nats"),
            stop_signal: "TERM",
            grace: Duration::from_secs(10),
            user: None,
        };
        let process = Supervised::start(program, workspace.pid_file("nats")).await?;
        readiness::wait("NATS", &process, &workspace.log("nats"), async || {
            is_serving(port).await
        })
        .await?;
        Ok(Nats {
            port,
            monitor_port,
            process,
        })
    }
}

/// Whether the server accepts clients: it greets them with INFO.
async fn is_serving(port: u16) -> bool {
    let Ok(mut connection) = TcpStream::connect(("127.0.0.1", port)).await else {
        return false;
    };
    let mut greeting = [0; 4];
    connection.read_exact(&mut greeting).await.is_ok() && &greeting == b"INFO"
}
