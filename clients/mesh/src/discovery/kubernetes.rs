//! `k8s:` targets: the endpoints of a Service, told by the Kubernetes API as soon as they change.
//!
//! The EndpointSlices of the Service are listed once and then watched from the version of that list on. A watch that
//! ends is begun again where it ended; when the API has forgotten that version (410 Gone), the list is asked for anew.
//! While the API cannot be reached, the endpoints stay as they were.

mod account;
mod api;
mod slices;

use std::time::Duration;

use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{Address, Update};
use crate::{failure::error_chain, retry::backoff::jitter};
use account::Account;
pub use account::KubernetesApi;
use api::{Api, ApiError, Status};
use slices::{EndpointSlice, Service, Slices};

/// After a failure.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
const BACKOFF_FACTOR: f64 = 1.6;
/// The API is asked to end a watch after about so long: a connection that has died unnoticed costs no more.
const WATCH_DURATION: Duration = Duration::from_secs(120);
/// How much longer it may take all the same.
const WATCH_GRACE: Duration = Duration::from_secs(20);
/// Slices in one answer. Each has a hundred endpoints unless the cluster says otherwise, and a thousand at most.
const PAGE_SIZE: usize = 50;

/// A Service, and the API that knows its endpoints.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    service: Service,
    api: Api,
}

/// Where the following has got to.
#[derive(Default)]
struct Progress {
    slices: Slices,
    /// What is watched from; `None`: nothing has been listed, or the API has forgotten.
    version: Option<String>,
    /// What was told last.
    sent: Option<Vec<Address>>,
}

impl Kubernetes {
    /// Reads `http://payment.weft:grpc`: the scheme to speak, the Service, its namespace unless it is the own one, and
    /// the port by its name in the Service or by its number in the pods.
    pub(super) fn parse(
        text: &str,
        settings: &KubernetesApi,
        zone: Option<&str>,
    ) -> Result<Kubernetes, String> {
        let account = Account::new(settings)?;
        let service = Service::parse(text, zone, || account.namespace())?;
        Ok(Kubernetes {
            service,
            api: Api::new(account),
        })
    }

    pub(super) fn is_secured(&self) -> bool {
        self.service.is_secured()
    }

    /// Tells the endpoints and every change of them, until nobody listens.
    pub(super) async fn watch(&self, updates: &mpsc::Sender<Update>) {
        let mut progress = Progress::default();
        let mut backoff = INITIAL_BACKOFF;
        loop {
            let (began, before) = (Instant::now(), progress.version.clone());
            let error = match self.list_and_watch(&mut progress, updates).await {
                Ok(()) if updates.is_closed() => return,
                // The API ends every watch some time.
                Ok(()) if began.elapsed() >= INITIAL_BACKOFF => {
                    backoff = INITIAL_BACKOFF;
                    continue;
                }
                Ok(()) => ApiError::WatchEndedEarly,
                Err(ApiError::Expired) if began.elapsed() >= INITIAL_BACKOFF => {
                    tracing::debug!(target.service = %self.service, "the watch has expired: listing again");
                    progress.version = None;
                    continue;
                }
                Err(error) => error,
            };
            // It came further than the last time.
            if progress.version != before {
                backoff = INITIAL_BACKOFF;
            }
            if matches!(error, ApiError::Expired) {
                progress.version = None;
            }
            let reason = format!("Kubernetes API: {}", error_chain(&error));
            tracing::warn!(target.service = %self.service, error = reason, "endpoints cannot be watched, the last ones stay");
            if updates.send(Err(reason.into())).await.is_err() {
                return;
            }
            sleep(jitter(backoff)).await;
            backoff = backoff.mul_f64(BACKOFF_FACTOR).min(MAX_BACKOFF);
        }
    }

    /// Lists if need be, then watches until the watch ends.
    async fn list_and_watch(
        &self,
        progress: &mut Progress,
        updates: &mpsc::Sender<Update>,
    ) -> Result<(), ApiError> {
        let version = match &progress.version {
            Some(version) => version.clone(),
            None => self.list(progress, updates).await?,
        };
        let limit = jitter(WATCH_DURATION);
        let query = format!(
            "watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={}",
            limit.as_secs()
        );
        let watching = async {
            let mut events = self.api.get(&self.service.path(&query)).await?;
            while let Some(line) = events.next_line().await? {
                self.apply(&line, progress)?;
                self.send_if_changed(progress, updates).await;
            }
            Ok(())
        };
        tokio::select! {
            ended = timeout(limit + WATCH_GRACE, watching) => ended.unwrap_or(Ok(())),
            () = updates.closed() => Ok(()),
        }
    }

    /// All slices, page by page, and the version that they are of.
    async fn list(
        &self,
        progress: &mut Progress,
        updates: &mpsc::Sender<Update>,
    ) -> Result<String, ApiError> {
        let mut slices = Slices::default();
        let mut query = format!("limit={PAGE_SIZE}");
        let version = loop {
            let page = self.api.get(&self.service.path(&query)).await?;
            let page: List = serde_json::from_slice(&page.read_to_end().await?)?;
            for slice in page.items {
                slices.insert(slice, &self.service)?;
            }
            match page.metadata.next {
                Some(next) if !next.is_empty() => {
                    query = format!("limit={PAGE_SIZE}&continue={}", percent_encode(&next))
                }
                _ => break page.metadata.resource_version,
            }
        };
        progress.slices = slices;
        progress.version = Some(version.clone());
        self.send_if_changed(progress, updates).await;
        Ok(version)
    }

    /// Takes in one line of a watch.
    fn apply(&self, line: &[u8], progress: &mut Progress) -> Result<(), ApiError> {
        let event: Event = serde_json::from_slice(line)?;
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" => {}
            "ERROR" => {
                let status: Status = serde_json::from_value(event.object)?;
                return Err(ApiError::refused(status.code, &status.message));
            }
            // Whatever a later version may send.
            _ => return Ok(()),
        }
        let slice: EndpointSlice = serde_json::from_value(event.object)?;
        progress.version = Some(slice.metadata.resource_version.clone());
        match event.kind.as_str() {
            "BOOKMARK" => Ok(()),
            "DELETED" => {
                progress.slices.remove(&slice.metadata.name);
                Ok(())
            }
            _ => progress.slices.insert(slice, &self.service),
        }
    }

    async fn send_if_changed(&self, progress: &mut Progress, updates: &mpsc::Sender<Update>) {
        let addresses = progress.slices.addresses();
        if progress.sent.as_ref() != Some(&addresses) {
            progress.sent = Some(addresses.clone());
            let _ = updates.send(Ok(addresses)).await;
        }
    }
}

/// An EndpointSliceList, as far as it is needed.
#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    items: Vec<EndpointSlice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// A line of a watch.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

/// Percent-encodes what may not stand in a query as it is.
fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
