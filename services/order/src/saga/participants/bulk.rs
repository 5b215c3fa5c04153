//! Combines calls that several sagas make at the same time into one call for many requests.

mod methods;

use std::{collections::HashMap, convert::Infallible, future::Future, sync::Arc, time::Duration};

use chassis::{
    Facility, Tasks,
    batch::{Batcher, Command, Limits},
    bulk::{self, STILL_RUNNING},
};
use futures_util::future::join_all;
use mesh::{Context, Origin};
pub(super) use methods::{Authorize, Prepare, Submit};
use prost::Message;
use tokio::sync::oneshot;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use crate::saga::ServiceCredentials;

/// Sagas that may wait to call. Their number is bounded where they begin.
const MAX_WAITING: usize = 100_000;
/// How long the next bulk call waits for the previous one before it is made concurrently.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// Bytes of requests in one call. Responses are about as large, and 4 MiB are accepted.
const MAX_BYTES: usize = 1 << 20;

/// A method of another service for one request, and its variant for many.
pub(super) trait Method: Clone + Send + Sync + 'static {
    type Request: Message + Clone + 'static;
    type Response: Send + 'static;

    fn call_one(
        &self,
        request: Request<Self::Request>,
    ) -> impl Future<Output = bulk::Outcome<Self::Response>> + Send;

    /// Returns the outcomes in the order of the requests.
    fn call_many(
        &self,
        requests: Request<Vec<Self::Request>>,
    ) -> impl Future<Output = Result<Vec<bulk::Outcome<Self::Response>>, Status>> + Send;
}

/// The calls of one method. A single saga calls at once with its caller's token; requests that arrive while a call
/// is running are combined.
pub(super) struct Calls<M: Method>(Batcher<BulkCall<M>>);

impl<M: Method> Clone for Calls<M> {
    fn clone(&self) -> Calls<M> {
        Calls(self.0.clone())
    }
}

/// A call that a saga waits for.
struct PendingCall<M: Method> {
    order: Uuid,
    facility: Facility,
    context: Context,
    request: M::Request,
    span: Span,
}

type CallOutcome<M> = bulk::Outcome<<M as Method>::Response>;
type Group<M> = Vec<(Arc<PendingCall<M>>, oneshot::Sender<CallOutcome<M>>)>;

impl<M: Method> Calls<M> {
    pub(super) fn new(method: M, credentials: &ServiceCredentials, tasks: &Tasks) -> Calls<M> {
        let limits = Limits {
            waiting: MAX_WAITING,
            ..Limits::default()
        };
        let bulk_call = BulkCall {
            method,
            credentials: credentials.clone(),
            tasks: tasks.clone(),
        };
        Calls(Batcher::new(bulk_call, limits, tasks.clone()))
    }

    /// Makes the call for the saga of an order.
    ///
    /// # Errors
    /// The callee's status, or that of a call that was not made.
    pub(super) async fn call(
        &self,
        context: &Context,
        (facility, order): (&Facility, Uuid),
        request: M::Request,
    ) -> CallOutcome<M> {
        let deadline = context.deadline();
        let call = PendingCall {
            order,
            facility: facility.clone(),
            context: context.clone(),
            request,
            span: Span::current(),
        };
        let response = async {
            match self.0.submit(call, deadline).await {
                Ok(receiver) => receiver.await.unwrap_or_else(|_| Err(abandoned())),
                Err(refused) => Err(match refused.into_error() {
                    Ok(never) => match never {},
                    Err(status) => status,
                }),
            }
        };
        match deadline {
            None => response.await,
            Some(deadline) => tokio::time::timeout_at(deadline, response)
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the call's deadline has passed"))),
        }
    }
}

/// Makes the calls of several sagas.
#[derive(Clone)]
struct BulkCall<M> {
    method: M,
    /// For bulk calls, which have several callers and therefore use the service's own token.
    credentials: ServiceCredentials,
    tasks: Tasks,
}

impl<M: Method> Command for BulkCall<M> {
    type Item = PendingCall<M>;
    type Outcome = oneshot::Receiver<CallOutcome<M>>;
    type Error = Infallible;

    fn aggregate(&self, call: &PendingCall<M>) -> Uuid {
        call.order
    }

    fn is_outage(&self, error: &Infallible) -> bool {
        match *error {}
    }

    /// Returns when all calls have ended or after [`MAX_WAIT`]; responses are delivered as they arrive.
    async fn execute(&self, pending: &[Arc<PendingCall<M>>]) -> Result<Vec<Self::Outcome>, Infallible> {
        let (receivers, groups) = group_by_facility(pending);
        let calls = groups.into_iter().map(|group| {
            let bulk_call = self.clone();
            self.tasks
                .run(async move { bulk_call.execute_group(group).await })
        });
        let calls: Vec<_> = calls.collect();
        let _ = tokio::time::timeout(MAX_WAIT, join_all(calls)).await;
        Ok(receivers)
    }
}

/// Groups the calls by facility so that each group fits into one message.
fn group_by_facility<M: Method>(
    pending: &[Arc<PendingCall<M>>],
) -> (Vec<oneshot::Receiver<CallOutcome<M>>>, Vec<Group<M>>) {
    let mut receivers = Vec::with_capacity(pending.len());
    let mut open: HashMap<&Facility, (usize, Group<M>)> = HashMap::new();
    let mut groups = Vec::new();
    for call in pending {
        let (sender, receiver) = oneshot::channel();
        receivers.push(receiver);
        let size = call.request.encoded_len();
        let (bytes, group) = open.entry(&call.facility).or_default();
        if !group.is_empty() && *bytes + size > MAX_BYTES {
            groups.push(std::mem::take(group));
            *bytes = 0;
        }
        *bytes += size;
        group.push((Arc::clone(call), sender));
    }
    groups.extend(open.into_values().map(|(_, group)| group));
    (receivers, groups)
}

impl<M: Method> BulkCall<M> {
    async fn execute_group(&self, group: Group<M>) {
        if group.len() == 1 {
            return self.one_by_one(group).await;
        }
        let Some((first, _)) = group.first() else { return };
        let span = first.span.clone();
        let requests = group.iter().map(|(call, _)| call.request.clone()).collect();
        let result = match self.credentials.context(&first.facility) {
            Ok(context) => {
                let response = self.method.call_many(context.request(requests));
                response.instrument(span).await
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        };
        match result {
            Ok(outcomes) if outcomes.len() == group.len() => {
                let mut slow = Vec::new();
                for ((call, sender), outcome) in group.into_iter().zip(outcomes) {
                    match outcome {
                        Err(status) if is_still_running(&status) => slow.push((call, sender)),
                        Err(status) => drop(sender.send(Err(Origin::mark_callee(status)))),
                        Ok(response) => drop(sender.send(Ok(response))),
                    }
                }
                self.one_by_one(slow).await;
            }
            Ok(_) => {
                let status = super::malformed("result for each request");
                fail_all(group, &status);
            }
            // An earlier version does not have the method; and if one request makes the whole call fail, single
            // calls show which.
            Err(status) if is_whole_call_refused(&status) => self.one_by_one(group).await,
            Err(status) => fail_all(group, &status),
        }
    }

    async fn one_by_one(&self, group: Group<M>) {
        let calls = group.into_iter().map(|(call, sender)| async move {
            let request = call.context.request(call.request.clone());
            let outcome = self.method.call_one(request).instrument(call.span.clone()).await;
            drop(sender.send(outcome));
        });
        join_all(calls).await;
    }
}

fn fail_all<M: Method>(group: Group<M>, status: &Status) {
    for (_, sender) in group {
        drop(sender.send(Err(status.clone())));
    }
}

fn is_whole_call_refused(status: &Status) -> bool {
    match status.code() {
        Code::Unimplemented | Code::InvalidArgument | Code::PermissionDenied => true,
        Code::ResourceExhausted => {
            ["MESSAGE_TOO_LARGE", "ANSWER_TOO_LARGE"].contains(&reason(status).as_str())
        }
        _ => false,
    }
}

fn is_still_running(status: &Status) -> bool {
    status.code() == Code::Unavailable && reason(status) == STILL_RUNNING
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

fn abandoned() -> Status {
    Status::unavailable("the call was abandoned")
}
