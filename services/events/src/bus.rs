use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, connection::State, jetstream};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Outbox, Settings, durability_check, limits::DeniedSubjects, registration::Registration, streams,
};

/// The longest wait between two attempts to connect to the broker.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// A silent connection is closed after four of these intervals: the client pings three times first.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// A deleted stream is noticed within this time.
const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// A service's connection to the broker. Cheap to clone. It reconnects without limit.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

struct Inner {
    service: String,
    settings: Settings,
    client: Client,
    outbox: Outbox,
    connected: watch::Receiver<bool>,
    ready: watch::Sender<bool>,
    /// Incremented at every check of the streams.
    generation: AtomicU64,
    /// Wakes an immediate check of the streams, because one seems to be missing.
    check_streams: Notify,
    denied_subjects: Arc<DeniedSubjects>,
    /// Counts lost connections.
    disconnects: Arc<watch::Sender<u64>>,
    /// The consumers that this process runs or stands by for, by name.
    consumers: Mutex<BTreeMap<String, Registration>>,
}

impl Bus {
    /// Starts to connect and returns without waiting: a service starts while the broker is down, and reports it by
    /// its readiness. Nothing is published or consumed until [`Bus::run`] runs.
    ///
    /// # Errors
    /// When the credentials or addresses cannot be read.
    pub async fn connect(settings: &Settings, service: &str) -> Result<Self, Error> {
        let (connection, connected) = watch::channel(false);
        let connection = Arc::new(connection);
        let denied_subjects = Arc::new(DeniedSubjects::new());
        let disconnects = Arc::new(watch::Sender::new(0));
        let (callback_denied, callback_disconnects) = (denied_subjects.clone(), disconnects.clone());
        let mut options = ConnectOptions::new()
            .name(service)
            .retry_on_initial_connect()
            .reconnect_delay_callback(reconnect_delay)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(Duration::from_millis(settings.relay.ack_timeout_ms)))
            .event_callback(move |event| {
                if matches!(event, async_nats::Event::Disconnected) {
                    callback_disconnects.send_modify(|count| *count += 1);
                }
                on_client_event(&connection, &callback_denied, &event);
                std::future::ready(())
            });
        if let Some(file) = &settings.credentials_file {
            options = options.credentials_file(file).await.map_err(Error::broker)?;
        }
        if let Some(file) = &settings.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        let servers: Vec<_> = settings
            .servers
            .iter()
            .map(|server| server.expose().to_owned())
            .collect();
        let client = options.connect(servers).await.map_err(Error::broker)?;
        Ok(Self(Arc::new(Inner {
            service: service.to_owned(),
            settings: settings.clone(),
            client,
            outbox: Outbox::default(),
            connected,
            ready: watch::Sender::new(false),
            generation: AtomicU64::new(0),
            check_streams: Notify::new(),
            denied_subjects,
            disconnects,
            consumers: Mutex::default(),
        })))
    }

    /// Sets up the streams at every connect (the broker may have come back empty) and keeps [`Bus::status`] true
    /// while it is connected. Runs until `shutdown`.
    ///
    /// # Errors
    /// [`Error::RelaxedSync`] when the server may lose acknowledged messages and the settings do not allow it,
    /// [`Error::TooOld`] when it does not support atomic batches.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        let connection_loop = async {
            let mut connected = self.0.connected.clone();
            let mut scope = streams::Scope::All;
            loop {
                wait_for_connection(&mut connected, true).await?;
                if let Err(error) = self.prepare(scope).await {
                    if error.is_permanent() {
                        return Err(error);
                    }
                    // A monitoring error does not stop a broker that has passed the check before.
                    let became_unusable =
                        !matches!(error, Error::Monitoring(_)) && self.0.ready.send_replace(false);
                    if became_unusable {
                        tracing::error!(error = %error, "the broker is no longer usable; events wait in the outbox");
                    } else {
                        tracing::warn!(error = %error, "the broker is not usable yet");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
                scope = streams::Scope::Missing;
                self.0.generation.fetch_add(1, Ordering::Release);
                if !self.0.ready.send_replace(true) {
                    tracing::info!("the broker is ready");
                }
                tokio::select! {
                    lost = wait_for_connection(&mut connected, false) => lost?,
                    () = tokio::time::sleep(STREAM_CHECK_INTERVAL) => continue,
                    () = self.0.check_streams.notified() => continue,
                }
                self.0.ready.send_replace(false);
                tracing::warn!("the connection to the broker is lost; events wait in the outbox");
            }
        };
        tokio::select! {
            ended = connection_loop => ended,
            () = shutdown.cancelled() => Ok(()),
        }
    }

    /// Whether events can be published and consumed now. Feeds the readiness probe.
    pub fn status(&self) -> watch::Receiver<bool> {
        self.0.ready.subscribe()
    }

    /// The handle that wakes the relay of this process after a commit.
    pub fn outbox(&self) -> Outbox {
        self.0.outbox.clone()
    }

    pub(crate) fn service(&self) -> &str {
        &self.0.service
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.0.client.clone())
    }

    /// Changes with every check of the streams: one of them may be new.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    pub(crate) fn register(&self, name: &str, consumer: Registration) {
        self.registry().insert(name.to_owned(), consumer);
    }

    pub(crate) fn consumer(&self, name: &str) -> Option<Registration> {
        self.registry().get(name).cloned()
    }

    pub(crate) fn consumers(&self) -> BTreeMap<String, Registration> {
        self.registry().clone()
    }

    fn registry(&self) -> MutexGuard<'_, BTreeMap<String, Registration>> {
        // A panic while the lock is held leaves the map consistent.
        self.0.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.0.ready.borrow() && self.0.client.connection_state() == State::Connected
    }

    /// Returns once the broker is ready.
    pub(crate) async fn ready(&self) {
        let mut status = self.status();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = status.wait_for(|ready| *ready).await;
    }

    /// Requests a check of the streams now.
    pub(crate) fn request_stream_check(&self) {
        self.0.check_streams.notify_one();
    }

    pub(crate) fn denied_subjects(&self) -> &DeniedSubjects {
        &self.0.denied_subjects
    }

    /// Changes when the connection is lost.
    pub(crate) fn disconnects(&self) -> watch::Receiver<u64> {
        self.0.disconnects.subscribe()
    }

    async fn prepare(&self, scope: streams::Scope) -> Result<(), Error> {
        durability_check::check_sync(&self.0.settings).await?;
        let jetstream = self.jetstream();
        // This request ensures that the server's version is known. Nothing is changed on a server that is too old.
        streams::find(&jetstream, streams::EVENTS).await?;
        durability_check::check_version(&self.0.client)?;
        streams::apply(&jetstream, &self.0.settings, scope).await
    }
}

async fn wait_for_connection(connected: &mut watch::Receiver<bool>, wanted: bool) -> Result<(), Error> {
    let waited = connected.wait_for(|is| *is == wanted).await;
    waited
        .map(drop)
        .map_err(|_| Error::Broker("the connection was closed".into()))
}

fn on_client_event(
    connection: &watch::Sender<bool>,
    denied_subjects: &DeniedSubjects,
    event: &async_nats::Event,
) {
    match event {
        async_nats::Event::ServerError(error) => {
            let error = error.to_string();
            denied_subjects.record(&error);
            tracing::warn!(error, "the broker refuses something of this connection");
        }
        async_nats::Event::Connected => drop(connection.send_replace(true)),
        async_nats::Event::Disconnected | async_nats::Event::Closed => drop(connection.send_replace(false)),
        other => tracing::info!(broker.event = %other, "broker connection event"),
    }
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = Duration::from_millis(50) * (1 << attempts.min(6));
    doubled
        .min(MAX_RECONNECT_DELAY)
        .mul_f64(0.5 + 0.5 * rand::random::<f64>())
}
