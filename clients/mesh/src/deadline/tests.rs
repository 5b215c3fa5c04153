use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, body::Body};
use tower::{Service, service_fn};

use super::{Deadline, effective};
use crate::{
    Context,
    call::{Call, Outcome},
    method::Method,
};

const MS: Duration = Duration::from_millis(1);

fn call(deadline: Option<Instant>) -> Call {
    let method = Arc::new(Method::new("test.Service/Method", None));
    Call {
        method,
        context: Context::new(),
        deadline,
        destination: None,
        request: Request::new(Body::empty()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_to_the_millisecond() {
    let started = Instant::now();
    let mut layer = Deadline::new(service_fn(|_: Call| std::future::pending::<Outcome>()));
    let status = layer.call(call(Some(started + 250 * MS))).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(started.elapsed(), 250 * MS);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_when_no_time_is_left() {
    let mut layer = Deadline::new(service_fn(|_: Call| async { unreachable!("the call was sent") }));
    let status = layer.call(call(Some(Instant::now()))).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn the_callees_own_timeout_is_reported_as_deadline_exceeded_and_a_cancellation_is_not() {
    for (message, code) in [
        ("Timeout expired", Code::DeadlineExceeded),
        ("stopped by the user", Code::Cancelled),
    ] {
        let mut layer = Deadline::new(service_fn(move |_: Call| async move {
            Ok::<_, Status>(Status::cancelled(message).into_http())
        }));
        let code_of = |outcome: Outcome| match outcome {
            Err(status) => status.code(),
            Ok(response) => Status::from_header_map(response.headers()).unwrap().code(),
        };
        assert_eq!(code_of(layer.call(call(Some(Instant::now() + MS))).await), code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_pauses_ends_at_the_deadline() {
    let endless = || {
        futures_util::stream::unfold((), |()| async {
            sleep(MS).await;
            Some((
                Ok::<_, Status>(http_body::Frame::data(bytes::Bytes::from_static(b"x"))),
                (),
            ))
        })
    };
    let mut layer = Deadline::new(service_fn(move |_: Call| async move {
        Ok::<_, Status>(Response::new(Body::new(StreamBody::new(endless()))))
    }));
    let started = Instant::now();
    let mut body = layer
        .call(call(Some(started + 50 * MS)))
        .await
        .unwrap()
        .into_body();
    let status = loop {
        if let Err(status) = body.frame().await.expect("an endless stream") {
            break status;
        }
    };
    assert_eq!(
        (status.code(), started.elapsed()),
        (Code::DeadlineExceeded, 50 * MS)
    );
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_earliest_deadline_applies_and_the_callers_is_reduced_by_a_margin() {
    let now = Instant::now();
    let caller = Context::new().with_deadline(now + 200 * MS);
    let bound = |own, policy| effective(&caller, own, policy, 5 * MS).map(|deadline| deadline - now);
    assert_eq!(bound(None, None), Some(195 * MS));
    assert_eq!(bound(Some(90 * MS), None), Some(90 * MS));
    assert_eq!(bound(None, Some(40 * MS)), Some(40 * MS));
    assert_eq!(effective(&Context::new(), None, None, 5 * MS), None);
    let short = Context::new().with_deadline(now + 10 * MS);
    assert_eq!(
        effective(&short, None, None, 5 * MS),
        Some(now + 9 * MS),
        "at most a tenth is kept back"
    );
}
