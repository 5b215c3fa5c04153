//! Calls that carry several requests, each of which is carried out and answered as if it had come alone.

use std::{future::Future, pin::pin, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use prost::{Message, Name};
use proto::google::rpc;
use tokio::time::Instant;
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};

use crate::{audit, contract, idempotency::REPLAYED, status};

/// How much longer than half of a call's requests the others may take.
const PATIENCE: Duration = Duration::from_millis(200);

/// The reason of a request that takes much longer than the others of its call. Repeated, it waits for its own outcome.
pub const STILL_RUNNING: &str = "STILL_RUNNING";

/// What became of one request.
pub type Outcome<R> = Result<Response<R>, Status>;

/// Carries out the requests of one call at the same time, each checked by the rules of its own contract, and gives their
/// outcomes in the same order. Those that take 200 ms longer than half of them are answered UNAVAILABLE `STILL_RUNNING`, so
/// that a slow one does not keep the others waiting.
pub async fn carry_out<M, R, F>(
    (metadata, extensions): (MetadataMap, Extensions),
    requests: Vec<M>,
    handle: impl Fn(Request<M>) -> F,
) -> Vec<Outcome<R>>
where
    M: Message + Name,
    F: Future<Output = Outcome<R>>,
{
    let mut outcomes: Vec<Option<Outcome<R>>> = requests.iter().map(|_| None).collect();
    let half = requests.len().div_ceil(2);
    let call = (metadata, extensions);
    let mut running: FuturesUnordered<_> = requests
        .into_iter()
        .map(|message| begin(&call, message, &handle))
        .enumerate()
        .map(|(at, running)| async move { (at, running.await) })
        .collect();
    let mut ended = 0;
    let mut patience = pin!(tokio::time::sleep(PATIENCE));
    loop {
        tokio::select! {
            next = running.next() => match next {
                Some((at, outcome)) => outcomes[at] = Some(outcome),
                None => break,
            },
            () = &mut patience, if ended >= half => break,
        }
        ended += 1;
        if ended == half {
            patience.as_mut().reset(Instant::now() + PATIENCE);
        }
    }
    let still_running =
        || status::unavailable(STILL_RUNNING, "the request takes longer than others; repeat it");
    outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|| Err(still_running())))
        .collect()
}

/// As [`carry_out`], for requests of which each is waited for to its end. If the call is audited each has a row of its own, with
/// its `request_id`.
pub async fn carry_out_all<M, R, F>(
    call: (MetadataMap, Extensions),
    requests: Vec<M>,
    request_id: impl Fn(&M) -> String,
    handle: impl Fn(Request<M>) -> F,
) -> Vec<Outcome<R>>
where
    M: Message + Name,
    F: Future<Output = Outcome<R>>,
{
    let running = requests.into_iter().map(|message| {
        let request_id = request_id(&message);
        let running = begin(&call, message, &handle);
        async move { audit::as_request(&request_id, running).await }
    });
    join_all(running).await
}

/// Checks a request and hands it to its handler.
fn begin<M, R, F>(
    (metadata, extensions): &(MetadataMap, Extensions),
    message: M,
    handle: impl Fn(Request<M>) -> F,
) -> impl Future<Output = Outcome<R>>
where
    M: Message + Name,
    F: Future<Output = Outcome<R>>,
{
    let handled = contract::check(&message)
        .map(|()| handle(Request::from_parts(metadata.clone(), extensions.clone(), message)));
    async move { handled?.await }
}

/// Whether the answer is that to an earlier request of the same id.
pub fn is_replayed<R>(response: &Response<R>) -> bool {
    response.metadata().contains_key(REPLAYED)
}

/// The status as a message of its own, with its details.
pub fn to_message(status: &Status) -> rpc::Status {
    let details = rpc::Status::decode(status.details()).map(|told| told.details);
    rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: details.unwrap_or_default(),
    }
}

/// The status that a message stands for.
pub fn from_message(message: &rpc::Status) -> Status {
    Status::with_details(
        Code::from_i32(message.code),
        message.message.clone(),
        message.encode_to_vec().into(),
    )
}

#[cfg(test)]
mod tests;
