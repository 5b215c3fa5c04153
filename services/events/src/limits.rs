//! The broker's limits: the size of a message, and the subjects that its permissions allow.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
    sync::watch,
    time::Instant,
};

/// A server's greeting is one line of a few hundred bytes.
const MAX_GREETING_BYTES: u64 = 64 << 10;

const TIMEOUT: Duration = Duration::from_secs(3);

/// The most subjects that are remembered as denied. Beyond it the oldest is forgotten.
const MAX_SUBJECTS: usize = 1_000;

/// Subjects that the server does not allow this client to publish to. The server reports this apart from the
/// request: a publish to such a subject gets no response.
pub(crate) struct DeniedSubjects(watch::Sender<HashMap<String, Instant>>);

impl DeniedSubjects {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(HashMap::new()))
    }

    /// Records the subject, if the server's error is a denial: `Permissions Violation for Publish to
    /// "dlq.order.x"`.
    pub(crate) fn record(&self, error: &str) {
        let Some((_, subject)) = error.split_once("Permissions Violation for Publish to ") else {
            return;
        };
        let subject = subject.trim_matches(|c: char| c == '"' || c == '\'' || c.is_whitespace());
        self.0.send_modify(|denied| {
            if denied.len() >= MAX_SUBJECTS && !denied.contains_key(subject) {
                let oldest = denied.iter().min_by_key(|(_, at)| **at);
                if let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) {
                    denied.remove(&oldest);
                }
            }
            denied.insert(subject.to_owned(), Instant::now());
        });
    }

    /// Forgets the denial of a subject: a message on it was accepted.
    pub(crate) fn clear(&self, subject: &str) {
        self.0.send_if_modified(|denied| denied.remove(subject).is_some());
    }

    /// Whether a publish to the subject was denied less than this time ago.
    pub(crate) fn is_denied(&self, subject: &str, within: Duration) -> bool {
        let denied = self.0.borrow();
        denied.get(subject).is_some_and(|at| at.elapsed() < within)
    }

    /// Returns once a publish to the subject is denied from now on. Otherwise it never returns.
    pub(crate) async fn denied(&self, subject: &str) {
        let started = Instant::now();
        let mut changes = self.0.subscribe();
        let recorded = changes.wait_for(|denied| denied.get(subject).is_some_and(|at| *at >= started));
        if recorded.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Deserialize)]
struct Greeting {
    max_payload: usize,
}

/// The largest message in bytes that a server accepts now. It is read from the greeting of a new connection, since
/// a connection keeps the limit of its own greeting. The first server that responds decides. `None`: no server
/// responds within three seconds.
pub(crate) async fn max_payload(servers: &[chassis::SecretUrl]) -> Option<usize> {
    for server in servers {
        let Ok(address) = server.expose().parse::<async_nats::ServerAddr>() else {
            continue;
        };
        let greeted = greeting(address.host(), address.port());
        if let Ok(Ok(limit)) = tokio::time::timeout(TIMEOUT, greeted).await {
            return Some(limit);
        }
    }
    None
}

async fn greeting(host: &str, port: u16) -> std::io::Result<usize> {
    let stream = TcpStream::connect((host, port)).await?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_GREETING_BYTES))
        .read_line(&mut line)
        .await?;
    let json = line
        .strip_prefix("INFO ")
        .ok_or_else(|| std::io::Error::other("no NATS server"))?;
    Ok(serde_json::from_str::<Greeting>(json)?.max_payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_subject_is_denied_while_its_last_denial_is_recent() {
        let denied_subjects = DeniedSubjects::new();
        denied_subjects.record("nats: Permissions Violation for Publish to \"dlq.order.x\"");
        denied_subjects.record("nats: Permissions Violation for Subscription to \"evt.order.x\"");
        let minute = Duration::from_secs(60);
        assert!(denied_subjects.is_denied("dlq.order.x", minute));
        assert!(!denied_subjects.is_denied("evt.order.x", minute));
        tokio::time::advance(minute).await;
        assert!(!denied_subjects.is_denied("dlq.order.x", minute));
    }

    #[test]
    fn the_number_of_remembered_subjects_is_bounded() {
        let denied_subjects = DeniedSubjects::new();
        for subject in 0..MAX_SUBJECTS + 10 {
            denied_subjects.record(&format!("Permissions Violation for Publish to \"s.{subject}\""));
        }
        assert_eq!(denied_subjects.0.borrow().len(), MAX_SUBJECTS);
    }
}
