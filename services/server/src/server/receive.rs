//! Receives the message of a unary request before a permit or a task is allocated for the call. A caller that
//! sends half a message is rejected after a timeout, and the memory for partial requests is limited in total and
//! for each tenant. Client streams have a time limit between two parts.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};

use super::{
    Response, Settings,
    admission::overloaded,
    call::{Call, Layer as CallLayer, Next, refuse},
    frames::Frames,
    rejected_calls::RejectedCalls,
    validation::{body_error, check_complete, message_count},
};
use crate::{Tenant, status};

/// Memory of a request besides its message, in bytes.
const OVERHEAD: usize = 4 * 1024;
/// One account may use one part in this many of the total.
const ACCOUNT_SHARE: usize = 4;

pub(super) struct Layer {
    shutdown: CancellationToken,
    stream_grace: Duration,
    timeout: Duration,
    gap: Duration,
    max_message_bytes: usize,
    budget: Arc<ByteBudget>,
    rejected: RejectedCalls,
}

impl Layer {
    pub(super) fn new(settings: &Settings, shutdown: CancellationToken) -> Layer {
        Layer {
            shutdown,
            stream_grace: settings.stream_grace(),
            timeout: Duration::from_millis(settings.receive_timeout_ms),
            gap: Duration::from_millis(settings.max_message_gap_ms),
            max_message_bytes: settings.max_message_bytes,
            budget: Arc::new(ByteBudget::new(settings.max_receive_bytes)),
            rejected: RejectedCalls::new(),
        }
    }

    /// The complete message with its prefix, before the timeout.
    async fn receive(
        &self,
        body: Body,
        frames: Frames,
        allocation: &mut Allocation,
        arrival: Instant,
    ) -> Result<Bytes, Status> {
        let stopping = async {
            self.shutdown.cancelled().await;
            sleep(self.stream_grace).await;
        };
        tokio::select! {
            received = timeout_at(arrival + self.timeout, collect(body, frames, allocation)) => {
                received.unwrap_or_else(|_| Err(self.too_slow()))
            }
            () = stopping => Err(status::draining()),
        }
    }

    fn too_slow(&self) -> Status {
        let text = format!(
            "the request did not arrive within {} ms; nothing was started",
            self.timeout.as_millis()
        );
        status::request_too_slow(text)
    }
}

async fn collect(mut body: Body, mut frames: Frames, allocation: &mut Allocation) -> Result<Bytes, Status> {
    allocation.add(OVERHEAD)?;
    let mut only = None;
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(body_error)?.into_data() else {
            continue;
        };
        allocation.add(piece.len())?;
        frames.push(piece);
        if only.is_none() {
            only = frames.next()?;
        }
        if only.is_some() && !frames.is_empty() {
            return Err(message_count("more than one"));
        }
    }
    check_complete(&frames)?;
    only.ok_or_else(|| message_count("none"))
}

impl CallLayer for Layer {
    fn handle(&self, mut call: Call, next: Next) -> BoxFuture<'_, Response> {
        let body = std::mem::take(call.request.body_mut());
        if call.shape().client_streams {
            *call.request.body_mut() =
                Body::new(GapTimeoutBody::new(body, self.gap, call.context.deadline()));
            return next.run(call);
        }
        let mut allocation = Allocation::new(&self.budget, Account::of_call(&call));
        Box::pin(async move {
            let frames = Frames::new(call.request.headers_mut(), self.max_message_bytes);
            let received = self.receive(body, frames, &mut allocation, call.arrival).await;
            if let Err(refusal) = &received
                && refusal.code() == tonic::Code::ResourceExhausted
            {
                self.rejected
                    .record(call.method.as_deref(), "RECEIVING", Duration::ZERO);
            }
            if call.method.is_some() {
                // Errors are answered by the validation layer, below the audit trail.
                call.received = Some(received);
            } else {
                match received {
                    Ok(bytes) => *call.request.body_mut() = Body::new(Full::new(bytes)),
                    Err(refusal) => return refuse(refusal),
                }
            }
            let response = next.run(call).await;
            drop(allocation);
            response
        })
    }
}

/// Who uses memory for requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Account {
    Tenant(Tenant),
    /// Calls that need no token.
    Anonymous,
    /// Callers without a tenant; they may use the whole total.
    WithoutTenant,
}

impl Account {
    fn of_call(call: &Call) -> Account {
        match call.caller() {
            Some(caller) => caller
                .tenant
                .clone()
                .map_or(Account::WithoutTenant, Account::Tenant),
            None if call.is_anonymous() => Account::Anonymous,
            None => Account::WithoutTenant,
        }
    }

    /// The bytes of the total that it may use.
    fn share(&self, max_bytes: usize) -> usize {
        match self {
            Account::Tenant(_) | Account::Anonymous => max_bytes / ACCOUNT_SHARE,
            Account::WithoutTenant => max_bytes,
        }
    }
}

/// Limits the bytes of requests in memory.
struct ByteBudget {
    max_bytes: usize,
    usage: Mutex<Usage>,
}

#[derive(Default)]
struct Usage {
    bytes: usize,
    /// Contains only those with bytes in use.
    accounts: HashMap<Account, usize>,
}

impl ByteBudget {
    fn new(max_bytes: usize) -> ByteBudget {
        ByteBudget {
            max_bytes,
            usage: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of one call; released when dropped.
struct Allocation {
    budget: Arc<ByteBudget>,
    account: Account,
    bytes: usize,
}

impl Allocation {
    fn new(budget: &Arc<ByteBudget>, account: Account) -> Allocation {
        Allocation {
            budget: budget.clone(),
            account,
            bytes: 0,
        }
    }

    /// # Errors
    /// RESOURCE_EXHAUSTED when the limit of the process, or of the account, is reached.
    fn add(&mut self, bytes: usize) -> Result<(), Status> {
        let mut usage = self.budget.lock();
        let used = usage.accounts.get(&self.account).copied().unwrap_or_default();
        let max_bytes = self.budget.max_bytes;
        if usage.bytes + bytes > max_bytes || used + bytes > self.account.share(max_bytes) {
            return Err(overloaded(
                "too many requests are being received; nothing was started",
            ));
        }
        usage.bytes += bytes;
        *usage.accounts.entry(self.account.clone()).or_default() += bytes;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let mut usage = self.budget.lock();
        usage.bytes -= self.bytes;
        if let Some(bytes) = usage.accounts.get_mut(&self.account) {
            *bytes -= self.bytes;
            if *bytes == 0 {
                usage.accounts.remove(&self.account);
            }
        }
    }
}

/// A client stream with a time limit between two parts while the handler waits, and with the call's deadline.
struct GapTimeoutBody {
    body: Body,
    gap: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl GapTimeoutBody {
    fn new(body: Body, gap: Duration, deadline: Option<Instant>) -> GapTimeoutBody {
        GapTimeoutBody {
            body,
            gap,
            waiting: None,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
        }
    }
}

impl HttpBody for GapTimeoutBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame);
        }
        let gap = self.gap;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(gap)));
        if waiting.as_mut().poll(cx).is_ready() {
            let text = format!(
                "the request's next message did not arrive within {} ms",
                gap.as_millis()
            );
            self.body = Body::empty();
            return Poll::Ready(Some(Err(status::request_too_slow(text))));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.body = Body::empty();
            return Poll::Ready(Some(Err(status::deadline_exceeded())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_limited_to_its_share() {
        let budget = Arc::new(ByteBudget::new(400));
        let tenant = |name: &str| Account::Tenant(Tenant::new(name).unwrap());
        let mut first = Allocation::new(&budget, tenant("F1"));
        first.add(60).unwrap();
        let mut second = Allocation::new(&budget, tenant("F1"));
        assert!(second.add(60).is_err());
        let mut others: Vec<_> = [tenant("F2"), tenant("F3"), Account::Anonymous]
            .into_iter()
            .map(|account| Allocation::new(&budget, account))
            .collect();
        others
            .iter_mut()
            .for_each(|allocation| allocation.add(100).unwrap());
        // 360 bytes are in use.
        assert!(Allocation::new(&budget, tenant("F4")).add(60).is_err());
        drop((first, second, others));
        let mut without = Allocation::new(&budget, Account::WithoutTenant);
        without.add(400).unwrap();
        assert!(without.add(1).is_err());
        drop(without);
        let usage = budget.lock();
        assert_eq!((usage.bytes, usage.accounts.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_pauses_too_long_ends() {
        let (sender, frames) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Status>>(4);
        let frames = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(frames));
        let mut body = GapTimeoutBody::new(Body::new(frames), Duration::from_secs(30), None);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(20)).await;
            sender
                .send(Ok(Frame::data(Bytes::from_static(b"x"))))
                .await
                .unwrap();
            assert!(body.frame().await.unwrap().is_ok());
        }
        let began = Instant::now();
        let status = body.frame().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(began.elapsed().as_secs(), 30);
    }
}
