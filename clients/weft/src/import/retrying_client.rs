//! Calls that are retried across a service's restart. Every request of an import can be repeated, because its id
//! is stable.

use std::time::{Duration, Instant};

use mesh::Origin;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};

use crate::{
    clients::{self, Clients},
    failure::{self, Failure},
};

/// The services' clients, and how long a call is retried. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RetryingClient {
    pub(crate) clients: Clients,
    pub(crate) retry_for: Duration,
    /// Cancelled when no more work is to begin: on Ctrl-C, or when a service stays unavailable.
    pub(crate) halt: CancellationToken,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The service refused the request.
    Refused(Status),
    /// The outcome is unknown; the entry has to be imported again.
    Undecided(Status),
}

const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

impl RetryingClient {
    /// Makes a call, and retries it for `retry_for` while the service is unavailable or is processing the same
    /// request. A failure that affects every other call too halts the import.
    pub(crate) async fn call<M, T, F>(
        &self,
        message: M,
        send: impl Fn(tonic::Request<M>) -> F,
    ) -> Result<Response<T>, CallError>
    where
        M: Clone + prost::Name,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (message, send) = (&message, &send);
        let attempt = || async move {
            let request = self.clients.untracked_request(message.clone());
            send(request.map_err(|failure| not_sent(&failure))?).await
        };
        self.retry::<M, _, _>(attempt).await
    }

    /// Retries `attempt`, a call with an `M`, as [`RetryingClient::call`] does.
    pub(super) async fn retry<M, T, F>(&self, attempt: impl Fn() -> F) -> Result<Response<T>, CallError>
    where
        M: prost::Name,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let began = Instant::now();
        let mut backoff = INITIAL_BACKOFF;
        loop {
            let status = match attempt().await {
                Ok(response) => return Ok(response),
                Err(status) => status,
            };
            if failure::reason(&status).as_deref() == Some("MESSAGE_TOO_LARGE") {
                return Err(CallError::Refused(status));
            }
            match status.code() {
                Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::ResourceExhausted
                | Code::Cancelled => {
                    if began.elapsed() >= self.retry_for {
                        return Err(self.give_up(status));
                    }
                    tokio::time::sleep(backoff.min(self.retry_for.saturating_sub(began.elapsed()))).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
                Code::Unauthenticated | Code::PermissionDenied => return Err(self.give_up(status)),
                Code::Unimplemented => {
                    let method = clients::method_by_request(&M::full_name()).unwrap_or_default();
                    return Err(self.give_up(self.clients.explain(&method, status).await));
                }
                _ => return Err(classify(status)),
            }
        }
    }

    fn give_up(&self, status: Status) -> CallError {
        self.halt.cancel();
        CallError::Undecided(status)
    }
}

/// Classifies a status that a retry does not change. Only the service can refuse: a response that cannot be
/// decoded here may be that of a request that took effect.
fn classify(status: Status) -> CallError {
    let is_fault = matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss);
    if is_fault || Origin::from_status(&status) == Origin::Client {
        CallError::Undecided(status)
    } else {
        CallError::Refused(status)
    }
}

/// The status of a call that was not made. A retry does not change it.
pub(super) fn not_sent(failure: &Failure) -> Status {
    let text = match failure {
        Failure::Usage(message) => message.clone(),
        Failure::Other(error) => format!("{error:#}"),
        Failure::Call(call) => call.status.message().to_owned(),
        Failure::AlreadyReported => String::new(),
    };
    Status::unauthenticated(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_service_refuses_and_a_response_that_cannot_be_decoded_is_undecided() {
        let unreadable = Status::out_of_range("the answer is too large to decode");
        assert!(matches!(classify(unreadable.clone()), CallError::Undecided(_)));
        let refused = classify(Origin::mark_callee(unreadable));
        assert!(matches!(refused, CallError::Refused(_)));
        let broken = classify(Origin::mark_callee(Status::internal("")));
        assert!(matches!(broken, CallError::Undecided(_)));
    }
}
