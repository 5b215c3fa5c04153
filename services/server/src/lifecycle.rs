//! The life of a process: until when it works, on what, and whether it is well.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{Health, Tasks};

/// The life of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    /// Cancelled when the process must stop: no new work is started.
    pub shutdown: CancellationToken,
    /// Cancelled when the server has answered all accepted calls: work that responses wait for continues until then.
    pub drained: CancellationToken,
    /// Its background work.
    pub tasks: Tasks,
    /// The health of the process.
    pub health: Health,
}

impl Lifecycle {
    /// A process that has just started.
    pub fn new() -> Lifecycle {
        let shutdown = CancellationToken::new();
        Lifecycle {
            tasks: Tasks::new(shutdown.clone()),
            shutdown,
            drained: CancellationToken::new(),
            health: Health::new(),
        }
    }

    /// Stops the process at SIGTERM and SIGINT.
    ///
    /// # Errors
    /// When the signals cannot be handled.
    pub fn stop_on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.shutdown.clone();
        self.tasks.spawn("signals", async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                () = shutdown.cancelled() => return Ok(()),
            };
            tracing::info!(signal = name, "stopping");
            shutdown.cancel();
            Ok(())
        });
        Ok(())
    }
}

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle::new()
    }
}
