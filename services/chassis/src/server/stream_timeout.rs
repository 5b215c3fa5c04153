//! Resets HTTP/2 streams whose peers do not read. What is to be sent waits for the peer's window, and hyper asks the
//! answer for nothing meanwhile, so that a deadline inside the answer would not be noticed. The timers here run beside
//! the stream: at the deadline of its call, and after the grace of streams when the server drains, the stream is
//! dropped, which resets it with CANCEL and ends what its answer guard.

use std::{
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long the last bytes of an answer that ended at its deadline may take.
const FLUSH_TIME: Duration = Duration::from_millis(250);

tokio::task_local! {
    static STREAM: Arc<OnceLock<StreamLimits>>;
}

/// How long a stream may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamLimits {
    pub(super) deadline: Instant,
    /// Whether it is to end early when the server drains: a single answer is waited for.
    pub(super) ends_with_server: bool,
}

/// Bounds the HTTP/2 stream that is being answered. Without effect elsewhere.
pub(super) fn limit_stream(limits: StreamLimits) {
    // A call sets it once, at its beginning.
    let _ = STREAM.try_with(|stream| stream.set(limits));
}

/// Runs HTTP/2 streams within their bounds.
#[derive(Clone, Debug)]
pub(super) struct Executor {
    /// The server has closed its door.
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
        tokio::select! {
            () = sleep_until(limits.deadline + FLUSH_TIME) => {}
            () = drained => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Executor as _;
    use tokio::sync::oneshot;

    use super::*;

    /// When a stream that never ends by itself is dropped.
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
                deadline: Instant::now() + Duration::from_secs(60),
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
