//! `k8s:` targets: watches the endpoints of a Service through the Kubernetes API.
//!
//! The EndpointSlices of the Service are listed once and then watched from the version of that list on. A watch
//! that ends is resumed from the last version; if the API no longer has that version (410 Gone), the slices are
//! listed again. While the API is unreachable, the last known endpoints stay in use.

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

/// The backoff after a failure.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
const BACKOFF_FACTOR: f64 = 1.6;
/// The API is asked to end a watch after about this time, which bounds how long a dead connection goes undetected.
const WATCH_DURATION: Duration = Duration::from_secs(120);
/// A watch is abandoned if it exceeds that time by this.
const WATCH_GRACE: Duration = Duration::from_secs(20);
/// Slices in one page of a list. A slice has up to a hundred endpoints by default, and never more than a thousand.
const PAGE_SIZE: usize = 50;

/// A Service, and the API that lists its endpoints.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    service: Service,
    api: Api,
}

/// The progress of the watch.
#[derive(Default)]
struct Progress {
    slices: Slices,
    /// The version to watch from; `None`: the slices must be listed first.
    version: Option<String>,
    /// The addresses that were sent last.
    sent: Option<Vec<Address>>,
}

impl Kubernetes {
    /// Parses `http://payment.weft:grpc`: the scheme, the Service, its namespace (default: the pod's own), and the
    /// port by its name in the Service or by its number in the pods. Labels may follow: `;version=v2`.
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

    /// Sends the endpoints and every change of them, until the receiver is dropped.
    pub(super) async fn watch(&self, updates: &mpsc::Sender<Update>) {
        let mut progress = Progress::default();
        let mut backoff = INITIAL_BACKOFF;
        loop {
            let (began, before) = (Instant::now(), progress.version.clone());
            let error = match self.list_and_watch(&mut progress, updates).await {
                Ok(()) if updates.is_closed() => return,
                // The API ends every watch after some time.
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
            // There was progress since the last failure.
            if progress.version != before {
                backoff = INITIAL_BACKOFF;
            }
            if matches!(error, ApiError::Expired) {
                progress.version = None;
            }
            let reason = format!("Kubernetes API: {}", error_chain(&error));
            tracing::warn!(target.service = %self.service, error = reason, "watching endpoints failed, the last known ones stay in use");
            if updates.send(Err(reason.into())).await.is_err() {
                return;
            }
            sleep(jitter(backoff)).await;
            backoff = backoff.mul_f64(BACKOFF_FACTOR).min(MAX_BACKOFF);
        }
    }

    /// Lists the slices if necessary, then watches until the watch ends.
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

    /// Lists all slices page by page, and returns the version of the list.
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
                    query = format!("limit={PAGE_SIZE}&continue={}", percent_encode(&next));
                }
                _ => break page.metadata.resource_version,
            }
        };
        progress.slices = slices;
        progress.version = Some(version.clone());
        self.send_if_changed(progress, updates).await;
        Ok(version)
    }

    /// Applies one line of a watch.
    fn apply(&self, line: &[u8], progress: &mut Progress) -> Result<(), ApiError> {
        let event: Event = serde_json::from_slice(line)?;
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" => {}
            "ERROR" => {
                let status: Status = serde_json::from_value(event.object)?;
                return Err(ApiError::refused(status.code, &status.message));
            }
            // Types of events that a later API version may send.
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

/// The fields of an EndpointSliceList that are needed.
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

/// Percent-encodes all characters that are not unreserved in a URI.
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
