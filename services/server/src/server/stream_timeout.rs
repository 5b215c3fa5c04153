//! Resets HTTP/2 streams whose peers do not read. Data waits for the peer's window, and meanwhile hyper does not
//! poll the response, so a deadline inside the response would not be noticed. The timers here run beside the
//! stream: at the call's deadline, and after the streams' grace period when the server drains, the stream is
//! dropped, which resets it with CANCEL and drops the response's guards.

use std::{
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long the last bytes of a response that ended at its deadline may take.
const FLUSH_TIME: Duration = Duration::from_millis(250);

tokio::task_local! {
    static STREAM: Arc<OnceLock<StreamLimits>>;
}

/// The time limits of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamLimits {
    /// `None`: it may last as long as its connection.
    pub(super) deadline: Option<Instant>,
    /// Whether it ends early when the server drains; unary responses are finished.
    pub(super) ends_with_server: bool,
}

/// Sets the limits of the current HTTP/2 stream. No effect outside a stream.
pub(super) fn limit_stream(limits: StreamLimits) {
    // Set once, at the start of a call.
    let _ = STREAM.try_with(|stream| stream.set(limits));
}

/// Runs HTTP/2 streams within their time limits.
#[derive(Clone, Debug)]
pub(super) struct Executor {
    /// Cancelled when the server stops accepting.
    pub(super) draining: CancellationToken,
    pub(super) stream_grace: Duration,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let executor = self.clone();
        let set = Arc::new(OnceLock::new());
        let limits = set.clone();
        drop(tokio::spawn(STREAM.scope(set, async move {
            let mut stream = pin!(stream);
            let mut expired: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if expired.is_none()
                    && let Some(limits) = limits.get()
                {
                    expired = Some(Box::pin(executor.clone().expired(*limits)));
                }
                match &mut expired {
                    Some(expired) => expired.as_mut().poll(cx),
                    None => Poll::Pending,
                }
            })
            .await;
        })));
    }
}

impl Executor {
    async fn expired(self, limits: StreamLimits) {
        let drained = async {
            if !limits.ends_with_server {
                return pending().await;
            }
            self.draining.cancelled().await;
            sleep(self.stream_grace + FLUSH_TIME).await;
        };
        let late = async {
            match limits.deadline {
                Some(deadline) => sleep_until(deadline + FLUSH_TIME).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = late => {}
            () = drained => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Executor as _;
    use tokio::sync::oneshot;

    use super::*;

    /// The time after which a stream that never ends is dropped.
    async fn dropped(ends_with_server: bool) -> Duration {
        let draining = CancellationToken::new();
        let executor = Executor {
            draining: draining.clone(),
            stream_grace: Duration::from_secs(2),
        };
        let began = Instant::now();
        let (guard, ended) = oneshot::channel::<()>();
        executor.execute(async move {
            let _guard = guard;
            limit_stream(StreamLimits {
                deadline: Some(Instant::now() + Duration::from_secs(60)),
                ends_with_server,
            });
            pending::<()>().await;
        });
        draining.cancel();
        assert!(ended.await.is_err());
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline_or_with_the_server() {
        assert_eq!(dropped(true).await.as_secs(), 2);
        assert_eq!(dropped(false).await.as_secs(), 60);
    }
}
