//! Calls that carry several requests. Each request is executed and answered as if it were a call of its own.

use std::{future::Future, pin::pin, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use mesh::Context;
use prost::{Message, Name};
use proto::google::rpc;
use tokio::{task::JoinHandle, time::Instant};
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};
use tracing::{Instrument as _, Span};

use crate::{Tasks, audit, contract, idempotency::REPLAYED, status};

/// How much longer than the faster half of a call's requests the others may take.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(200);

/// The error reason of a request that takes much longer than the others of its call. When repeated, it waits for
/// its own outcome.
pub const STILL_RUNNING: &str = "STILL_RUNNING";

/// The result of one request.
pub type Outcome<R> = Result<Response<R>, Status>;

/// Executes the requests of one call concurrently, each validated by its own contract, and returns the outcomes in
/// the same order. Requests that take 200 ms longer than half of them are answered UNAVAILABLE `STILL_RUNNING`, so
/// that they do not delay the others; they are still finished, and the drain waits for them.
pub async fn execute<M, R, F>(
    call: Request<Vec<M>>,
    handle: impl Fn(Request<M>) -> F + Send + 'static,
) -> Vec<Outcome<R>>
where
    M: Message + Name + 'static,
    R: Send + 'static,
    F: Future<Output = Outcome<R>> + Send + 'static,
{
    let (call, requests) = parts(call);
    let tasks = call.1.get::<Tasks>().cloned();
    let mut outcomes: Vec<Option<Outcome<R>>> = requests.iter().map(|_| None).collect();
    let half = requests.len().div_ceil(2);
    let mut running: FuturesUnordered<_> = requests
        .into_iter()
        .map(|message| begin(&call, message, &handle))
        .enumerate()
        .map(|(at, begun)| async move { (at, ended(begun).await) })
        .collect();
    let mut ended = 0;
    let mut straggler_timeout = pin!(tokio::time::sleep(STRAGGLER_TIMEOUT));
    loop {
        tokio::select! {
            next = running.next() => match next {
                Some((at, outcome)) => outcomes[at] = Some(outcome),
                None => break,
            },
            () = &mut straggler_timeout, if ended >= half => break,
        }
        ended += 1;
        if ended == half {
            straggler_timeout
                .as_mut()
                .reset(Instant::now() + STRAGGLER_TIMEOUT);
        }
    }
    if !running.is_empty() {
        drop(run(tasks.as_ref(), async move {
            while running.next().await.is_some() {}
        }));
    }
    let still_running =
        || status::unavailable(STILL_RUNNING, "the request takes longer than others; repeat it");
    outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|| Err(still_running())))
        .collect()
}

/// Runs a part of a call in a task, with the call's context.
fn run<F>(tasks: Option<&Tasks>, part: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let part = audit::inherit(part);
    let context = Context::current().unwrap_or_default();
    let part = context.scope(part).instrument(Span::current());
    match tasks {
        Some(tasks) => tasks.run(part),
        None => tokio::spawn(part),
    }
}

/// As [`execute`], but waits for every request. If the call is audited, each request has an audit row with its
/// `request_id`. They start one after the other, with a yield in between, because validating a large request takes
/// long enough to delay other calls.
pub async fn execute_all<M, R, F>(
    call: Request<Vec<M>>,
    request_id: impl Fn(&M) -> String,
    handle: impl Fn(Request<M>) -> F,
) -> Vec<Outcome<R>>
where
    M: Message + Name,
    R: Send + 'static,
    F: Future<Output = Outcome<R>> + Send + 'static,
{
    let (call, requests) = parts(call);
    let tasks = call.1.get::<Tasks>().cloned();
    let mut running = Vec::with_capacity(requests.len());
    for message in requests {
        let request_id = request_id(&message);
        let begun = begin(&call, message, &handle);
        let request = async move { audit::run_request(&request_id, ended(begun)).await };
        running.push(run(tasks.as_ref(), request));
        tokio::task::yield_now().await;
    }
    let ended = join_all(running).await.into_iter();
    ended
        .map(|ended| ended.unwrap_or_else(|panicked| Err(status::internal(&panicked))))
        .collect()
}

/// Metadata and extensions, common to the requests of one call.
type Call = (MetadataMap, Extensions);

fn parts<M>(call: Request<Vec<M>>) -> (Call, Vec<M>) {
    let (metadata, extensions, requests) = call.into_parts();
    ((metadata, extensions), requests)
}

/// Validates a request and passes it to its handler.
fn begin<M, F>(
    (metadata, extensions): &Call,
    message: M,
    handle: impl Fn(Request<M>) -> F,
) -> Result<F, Status>
where
    M: Message + Name,
{
    contract::contract().check(&message)?;
    let request = Request::from_parts(metadata.clone(), extensions.clone(), message);
    Ok(handle(request))
}

async fn ended<R>(begun: Result<impl Future<Output = Outcome<R>>, Status>) -> Outcome<R> {
    begun?.await
}

/// Maps outcomes to the results of a response: the response or error of each request, and whether it is the stored
/// response of an earlier request with the same id.
pub fn results<R, T>(
    outcomes: Vec<Outcome<R>>,
    result: impl Fn(Result<R, rpc::Status>, bool) -> T,
) -> Vec<T> {
    let outcomes = outcomes.into_iter();
    outcomes
        .map(|outcome| match outcome {
            Ok(response) => {
                let replayed = response.metadata().contains_key(REPLAYED);
                result(Ok(response.into_inner()), replayed)
            }
            Err(status) => result(Err(to_message(&status)), false),
        })
        .collect()
}

/// Encodes a status, with its details, as a message.
fn to_message(status: &Status) -> rpc::Status {
    let details = rpc::Status::decode(status.details()).map(|message| message.details);
    rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: details.unwrap_or_default(),
    }
}

/// Decodes a status from a message.
pub fn from_message(message: &rpc::Status) -> Status {
    Status::with_details(
        Code::from_i32(message.code),
        message.message.clone(),
        message.encode_to_vec().into(),
    )
}

#[cfg(test)]
mod tests;
