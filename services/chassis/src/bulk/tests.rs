use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use proto::claims::v1::{SubmitClaimRequest, SubmitClaimResponse};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::*;
use crate::idempotency;

fn submit(id: &str) -> SubmitClaimRequest {
    SubmitClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        id: id.to_owned(),
    }
}

async fn run<F>(
    requests: Vec<SubmitClaimRequest>,
    handle: impl Fn(SubmitClaimRequest) -> F + Send + 'static,
) -> Vec<Outcome<SubmitClaimResponse>>
where
    F: Future<Output = Outcome<SubmitClaimResponse>> + Send + 'static,
{
    execute(
        Request::new(requests),
        move |request: Request<SubmitClaimRequest>| handle(request.into_inner()),
    )
    .await
}

fn reason(outcome: &Outcome<SubmitClaimResponse>) -> String {
    let details = outcome.as_ref().unwrap_err().get_error_details();
    details.error_info().unwrap().reason.clone()
}

#[tokio::test(start_paused = true)]
async fn each_request_has_the_outcome_of_a_call_of_its_own() {
    let (good, known, refused) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let ids = [
        good.to_string(),
        "nothing".to_owned(),
        known.to_string(),
        refused.to_string(),
    ];
    let outcomes = run(
        ids.iter().map(|id| submit(id)).collect(),
        move |request| async move {
            match request.id {
                id if id == known.to_string() => Ok(idempotency::replayed(SubmitClaimResponse::default())),
                id if id == refused.to_string() => {
                    Err(status::failed_precondition("WRONG_STATE", "it is withdrawn"))
                }
                _ => Ok(Response::new(SubmitClaimResponse::default())),
            }
        },
    )
    .await;
    let invalid = outcomes[1].as_ref().unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);
    let details = invalid.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "id");
    assert_eq!(reason(&outcomes[3]), "WRONG_STATE");
    let replays = results(outcomes, |result, replayed| (result.is_ok(), replayed));
    assert_eq!(
        replays,
        [(true, false), (false, false), (true, true), (false, false)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_does_not_delay_the_others_and_is_finished() {
    let slow = Uuid::new_v4();
    let (finished, mut finish) = tokio::sync::mpsc::unbounded_channel();
    let ids = [slow, Uuid::new_v4(), Uuid::new_v4()];
    let began = Instant::now();
    let outcomes = run(
        ids.iter().map(|id| submit(&id.to_string())).collect(),
        move |request| {
            let finished = finished.clone();
            async move {
                if request.id == slow.to_string() {
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    let _ = finished.send(request.id);
                }
                Ok(Response::new(SubmitClaimResponse::default()))
            }
        },
    )
    .await;
    assert_eq!(reason(&outcomes[0]), STILL_RUNNING);
    assert!(outcomes[1].is_ok() && outcomes[2].is_ok());
    assert_eq!(began.elapsed(), STRAGGLER_TIMEOUT);
    assert_eq!(finish.recv().await, Some(slow.to_string()));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_all_slow_are_waited_for() {
    let ids = [Uuid::new_v4(), Uuid::new_v4()];
    let outcomes = run(
        ids.iter().map(|id| submit(&id.to_string())).collect(),
        |_| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(Response::new(SubmitClaimResponse::default()))
        },
    )
    .await;
    assert!(outcomes.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn execute_all_waits_for_slow_requests() {
    let slow = Uuid::new_v4();
    let ids = [slow, Uuid::new_v4()];
    let requests = ids
        .iter()
        .map(|id| submit(&id.to_string()))
        .chain([submit("nothing")]);
    let request_id = |request: &SubmitClaimRequest| request.request_id.clone();
    let handle = move |request: Request<SubmitClaimRequest>| async move {
        if request.get_ref().id == slow.to_string() {
            tokio::time::sleep(Duration::from_secs(9)).await;
        }
        Ok(Response::new(SubmitClaimResponse::default()))
    };
    let outcomes = execute_all(Request::new(requests.collect()), request_id, handle).await;
    assert!(outcomes[0].is_ok() && outcomes[1].is_ok());
    assert_eq!(reason(&outcomes[2]), "INVALID_REQUEST");
}

#[tokio::test]
async fn other_tasks_run_while_many_requests_start() {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let begun = Mutex::new(Vec::new());
    let requests = (0..64).map(|_| submit(&Uuid::new_v4().to_string())).collect();
    let request_id = |request: &SubmitClaimRequest| request.request_id.clone();
    let handle = |_| {
        begun.lock().unwrap().push(turns.load(Ordering::Relaxed));
        async { Ok(Response::new(SubmitClaimResponse::default())) }
    };
    let outcomes = execute_all(Request::new(requests), request_id, handle).await;
    other.abort();
    assert!(outcomes.iter().all(Result::is_ok));
    let begun = begun.into_inner().unwrap();
    assert!(begun.windows(2).all(|pair| pair[0] < pair[1]), "{begun:?}");
}

#[test]
fn a_status_survives_encoding_as_a_message() {
    let status = status::resource_exhausted("QUEUE_FULL", "too many requests are waiting", STRAGGLER_TIMEOUT);
    let back = from_message(&to_message(&status));
    assert_eq!((back.code(), back.message()), (status.code(), status.message()));
    let details = back.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "QUEUE_FULL");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(STRAGGLER_TIMEOUT));
}
