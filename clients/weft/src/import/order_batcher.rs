//! Batches orders that are placed at the same time into one call.

use std::time::Duration;

use mesh::Origin;
use prost::Message as _;
use proto::order::v1::{
    PlaceOrderRequest, PlaceOrderResponse, PlaceOrdersRequest, PlaceOrdersResult,
    place_orders_result::Result as Placed,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Response, Status, metadata::MetadataValue};

use super::{
    REPLAYED_HEADER,
    retrying_client::{CallError, RetryingClient, not_sent},
};
use crate::{clients::Clients, failure::reason};

/// The most requests of one call, which is the contract's limit, and the most bytes, far below a service's limit.
const MAX_BATCH: usize = 64;
const MAX_BATCH_BYTES: usize = 1 << 20;
/// How long a call waits for further requests. Workers that waited for the same call send their next ones
/// together.
const BATCH_WINDOW: Duration = Duration::from_millis(5);

type Answer = Result<Response<PlaceOrderResponse>, Status>;

/// Places the orders of an import in batches. Dropping it cancels the calls in progress.
pub(crate) struct OrderBatcher {
    pub(crate) client: RetryingClient,
    queue: mpsc::Sender<QueuedOrder>,
    _calls: AbortOnDropHandle<()>,
}

/// An order that waits for its call.
struct QueuedOrder {
    request: PlaceOrderRequest,
    reply: oneshot::Sender<Answer>,
}

impl OrderBatcher {
    pub(crate) fn new(client: RetryingClient) -> OrderBatcher {
        let (queue, queued) = mpsc::channel(MAX_BATCH);
        let calls = tokio::spawn(run_batches(client.clients.clone(), queued));
        OrderBatcher {
            client,
            queue,
            _calls: AbortOnDropHandle::new(calls),
        }
    }

    /// Places an order, with the retries of [`RetryingClient::call`]. A retry joins a new batch.
    pub(crate) async fn place(
        &self,
        request: &PlaceOrderRequest,
    ) -> Result<Response<PlaceOrderResponse>, CallError> {
        let place = || self.send(request.clone());
        self.client.retry::<PlaceOrderRequest, _, _>(place).await
    }

    async fn send(&self, request: PlaceOrderRequest) -> Answer {
        let (reply, replied) = oneshot::channel();
        // The receivers are dropped only if the task that makes the calls panics.
        let ended = || Status::internal("the calls have ended");
        let sent = self.queue.send(QueuedOrder { request, reply }).await;
        sent.map_err(|_| ended())?;
        replied.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Collects batches and makes their calls concurrently, at most one for each waiting worker.
async fn run_batches(clients: Clients, mut queue: mpsc::Receiver<QueuedOrder>) {
    let mut calls = JoinSet::new();
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let until = Instant::now() + BATCH_WINDOW;
        let mut bytes = first.request.encoded_len();
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(Some(order)) = timeout_at(until, queue.recv()).await
        {
            bytes += order.request.encoded_len();
            if bytes > MAX_BATCH_BYTES {
                next = Some(order);
                break;
            }
            batch.push(order);
        }
        let clients = clients.clone();
        calls.spawn(async move { place_batch(&clients, batch).await });
        while calls.try_join_next().is_some() {}
    }
}

async fn place_batch(clients: &Clients, batch: Vec<QueuedOrder>) {
    if batch.len() == 1 {
        return place_individually(clients, batch).await;
    }
    let requests = batch.iter().map(|order| order.request.clone()).collect();
    match call_place_orders(clients, requests).await {
        Ok(results) if results.len() == batch.len() => {
            for (order, result) in batch.into_iter().zip(results) {
                // The receiver is gone after a second Ctrl-C.
                let _ = order.reply.send(to_response(result));
            }
        }
        Ok(_) => fail_all(
            batch,
            &Status::internal("the answer does not have a result for each order"),
        ),
        Err(status) if is_batch_rejected(&status) => place_individually(clients, batch).await,
        Err(status) => fail_all(batch, &status),
    }
}

async fn call_place_orders(
    clients: &Clients,
    requests: Vec<PlaceOrderRequest>,
) -> Result<Vec<PlaceOrdersResult>, Status> {
    let request = clients.untracked_request(PlaceOrdersRequest { requests });
    let request = request.map_err(|failure| not_sent(&failure))?;
    Ok(clients.order().place_orders(request).await?.into_inner().results)
}

/// Whether the orders have to be placed one by one: an older service does not have the method, and a service's
/// message limits may be lower.
fn is_batch_rejected(status: &Status) -> bool {
    let size = matches!(
        reason(status).as_deref(),
        Some("MESSAGE_TOO_LARGE" | "ANSWER_TOO_LARGE")
    );
    size || status.code() == Code::Unimplemented
}

async fn place_individually(clients: &Clients, batch: Vec<QueuedOrder>) {
    let calls = batch.into_iter().map(|order| async move {
        let answer = match clients.untracked_request(order.request) {
            Ok(request) => clients.order().place_order(request).await,
            Err(failure) => Err(not_sent(&failure)),
        };
        let _ = order.reply.send(answer);
    });
    futures_util::future::join_all(calls).await;
}

fn fail_all(batch: Vec<QueuedOrder>, status: &Status) {
    for order in batch {
        let _ = order.reply.send(Err(status.clone()));
    }
}

/// Converts a result to the response of PlaceOrder.
fn to_response(result: PlaceOrdersResult) -> Answer {
    match result.result {
        Some(Placed::Response(placed)) => {
            let mut response = Response::new(placed);
            if result.replayed {
                let marks = response.metadata_mut();
                marks.insert(REPLAYED_HEADER, MetadataValue::from_static("true"));
            }
            Ok(response)
        }
        Some(Placed::Error(error)) => {
            let (code, details) = (Code::from(error.code), error.encode_to_vec());
            Err(Origin::mark_callee(Status::with_details(
                code,
                error.message,
                details.into(),
            )))
        }
        None => Err(Status::internal("the answer has no result for the order")),
    }
}

#[cfg(test)]
mod tests {
    use proto::google::rpc;

    use super::*;
    use crate::import::is_replayed;

    fn placed(replayed: bool) -> PlaceOrdersResult {
        PlaceOrdersResult {
            result: Some(Placed::Response(PlaceOrderResponse::default())),
            replayed,
        }
    }

    #[test]
    fn a_result_is_the_response_of_a_call_for_that_order_alone() {
        assert!(is_replayed(&to_response(placed(true)).unwrap()));
        assert!(!is_replayed(&to_response(placed(false)).unwrap()));
        let refused = PlaceOrdersResult {
            result: Some(Placed::Error(rpc::Status {
                code: Code::AlreadyExists.into(),
                message: "it is there".to_owned(),
                details: Vec::new(),
            })),
            replayed: false,
        };
        let status = to_response(refused).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::AlreadyExists, "it is there")
        );
        assert_eq!(Origin::from_status(&status), Origin::Callee);
        let missing = to_response(PlaceOrdersResult::default()).unwrap_err();
        assert_eq!(Origin::from_status(&missing), Origin::Client);
    }

    #[test]
    fn a_rejected_batch_is_placed_order_by_order() {
        assert!(is_batch_rejected(&Status::unimplemented("")));
        assert!(!is_batch_rejected(&Status::unavailable("")));
        assert!(!is_batch_rejected(&Status::resource_exhausted("")));
    }
}
