//! Orders that are placed at the same time go to the service together.

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
    REPLAYED,
    caller::{Caller, NoAnswer, unsent},
};
use crate::{clients::Clients, failure::reason};

/// The requests of one call, at most: as many as the contract takes, and far fewer bytes than a service does.
const MOST: usize = 64;
const BYTES: usize = 1 << 20;
/// How long a call waits for further requests. The workers that one call has kept waiting come at the same time.
const GATHER: Duration = Duration::from_millis(5);

type Answer = Result<Response<PlaceOrderResponse>, Status>;

/// Places the orders of an import. Dropped, it ends the calls that are under way.
pub(crate) struct Orders {
    pub(crate) caller: Caller,
    queue: mpsc::Sender<Waiting>,
    _calls: AbortOnDropHandle<()>,
}

/// An order that is to be placed.
struct Waiting {
    request: PlaceOrderRequest,
    answer: oneshot::Sender<Answer>,
}

impl Orders {
    pub(crate) fn new(caller: Caller) -> Orders {
        let (queue, waiting) = mpsc::channel(MOST);
        let calls = tokio::spawn(gather(caller.clients.clone(), waiting));
        Orders {
            caller,
            queue,
            _calls: AbortOnDropHandle::new(calls),
        }
    }

    /// Places an order, as [`Caller::call`] makes a call: what is tried again goes with whatever others come then.
    pub(crate) async fn place(
        &self,
        request: &PlaceOrderRequest,
    ) -> Result<Response<PlaceOrderResponse>, NoAnswer> {
        let place = || self.send(request.clone());
        self.caller.insist::<PlaceOrderRequest, _, _>(place).await
    }

    async fn send(&self, request: PlaceOrderRequest) -> Answer {
        let (answer, answered) = oneshot::channel();
        // The receivers go only with the task that calls, which ends by a panic alone.
        let ended = || Status::internal("the calls have ended");
        let sent = self.queue.send(Waiting { request, answer }).await;
        sent.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Makes the calls, beside each other: as many as workers wait for, at most.
async fn gather(clients: Clients, mut queue: mpsc::Receiver<Waiting>) {
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
        let until = Instant::now() + GATHER;
        let mut bytes = first.request.encoded_len();
        let mut batch = vec![first];
        while batch.len() < MOST
            && let Ok(Some(waiting)) = timeout_at(until, queue.recv()).await
        {
            bytes += waiting.request.encoded_len();
            if bytes > BYTES {
                next = Some(waiting);
                break;
            }
            batch.push(waiting);
        }
        let clients = clients.clone();
        calls.spawn(async move { place(&clients, batch).await });
        while calls.try_join_next().is_some() {}
    }
}

async fn place(clients: &Clients, batch: Vec<Waiting>) {
    if batch.len() == 1 {
        return one_by_one(clients, batch).await;
    }
    let requests = batch.iter().map(|waiting| waiting.request.clone()).collect();
    match together(clients, requests).await {
        Ok(results) if results.len() == batch.len() => {
            for (waiting, result) in batch.into_iter().zip(results) {
                // Nobody waits for it after a second Ctrl-C.
                let _ = waiting.answer.send(answer(result));
            }
        }
        Ok(_) => refuse_all(
            batch,
            &Status::internal("the answer does not have a result for each order"),
        ),
        Err(status) if is_refused_whole(&status) => one_by_one(clients, batch).await,
        Err(status) => refuse_all(batch, &status),
    }
}

async fn together(
    clients: &Clients,
    requests: Vec<PlaceOrderRequest>,
) -> Result<Vec<PlaceOrdersResult>, Status> {
    let request = clients.side_request(PlaceOrdersRequest { requests });
    let request = request.map_err(|failure| unsent(&failure))?;
    Ok(clients.order().place_orders(request).await?.into_inner().results)
}

/// A service of the version before does not have the method, and one may be set to take or to send less at once.
fn is_refused_whole(status: &Status) -> bool {
    let size = matches!(
        reason(status).as_deref(),
        Some("MESSAGE_TOO_LARGE" | "ANSWER_TOO_LARGE")
    );
    size || status.code() == Code::Unimplemented
}

async fn one_by_one(clients: &Clients, batch: Vec<Waiting>) {
    let calls = batch.into_iter().map(|waiting| async move {
        let answer = match clients.side_request(waiting.request) {
            Ok(request) => clients.order().place_order(request).await,
            Err(failure) => Err(unsent(&failure)),
        };
        let _ = waiting.answer.send(answer);
    });
    futures_util::future::join_all(calls).await;
}

fn refuse_all(batch: Vec<Waiting>, status: &Status) {
    for waiting in batch {
        let _ = waiting.answer.send(Err(status.clone()));
    }
}

/// The result as PlaceOrder would have answered it.
fn answer(result: PlaceOrdersResult) -> Answer {
    match result.result {
        Some(Placed::Response(placed)) => {
            let mut response = Response::new(placed);
            if result.replayed {
                let marks = response.metadata_mut();
                marks.insert(REPLAYED, MetadataValue::from_static("true"));
            }
            Ok(response)
        }
        Some(Placed::Error(error)) => {
            let (code, details) = (Code::from(error.code), error.encode_to_vec());
            Err(Origin::answered(Status::with_details(
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
    use crate::import::was_given_before;

    fn placed(replayed: bool) -> PlaceOrdersResult {
        PlaceOrdersResult {
            result: Some(Placed::Response(PlaceOrderResponse::default())),
            replayed,
        }
    }

    #[test]
    fn a_result_is_the_answer_that_the_order_alone_would_have() {
        assert!(was_given_before(&answer(placed(true)).unwrap()));
        assert!(!was_given_before(&answer(placed(false)).unwrap()));
        let refused = PlaceOrdersResult {
            result: Some(Placed::Error(rpc::Status {
                code: Code::AlreadyExists.into(),
                message: "it is there".to_owned(),
                details: Vec::new(),
            })),
            replayed: false,
        };
        let status = answer(refused).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::AlreadyExists, "it is there")
        );
        assert_eq!(Origin::of(&status), Origin::Callee);
        let missing = answer(PlaceOrdersResult::default()).unwrap_err();
        assert_eq!(Origin::of(&missing), Origin::Client);
    }

    #[test]
    fn a_call_that_the_service_cannot_take_is_made_for_each_order() {
        assert!(is_refused_whole(&Status::unimplemented("")));
        assert!(!is_refused_whole(&Status::unavailable("")));
        assert!(!is_refused_whole(&Status::resource_exhausted("")));
    }
}
