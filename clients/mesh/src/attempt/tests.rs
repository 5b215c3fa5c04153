use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request, Response, header};
use tokio::time::{Instant, advance};
use tonic::{Code, body::Body};
use tower::{Service, service_fn};

use super::Prepare;
use crate::{
    Context, call::Attempt, context::PREVIOUS_ATTEMPTS, failure::Failure, grpc_timeout, method::Method,
    telemetry::Metrics,
};

fn attempt(context: Context, deadline: Option<Instant>, previous: u32) -> Attempt {
    Attempt {
        method: Arc::new(Method::new("test.Service/Method", None)),
        context,
        deadline,
        destination: None,
        previous,
        tried: Arc::default(),
        running: None,
        request: Request::new(Body::empty()),
    }
}

/// Sends an attempt and returns its headers.
async fn sent(attempt: Attempt) -> Result<HeaderMap, Failure> {
    let echo = service_fn(|attempt: Attempt| async move {
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = attempt.request.headers().clone();
        Ok(response)
    });
    let mut layer = Prepare::new(echo, Arc::new(Metrics::new("test", "static:test")));
    layer
        .call(attempt)
        .await
        .map(|response| response.headers().clone())
}

#[tokio::test(start_paused = true)]
async fn every_attempt_carries_its_remaining_time() {
    let deadline = Instant::now() + Duration::from_millis(300);
    for left in [300, 200] {
        let headers = sent(attempt(Context::new(), Some(deadline), 0)).await.unwrap();
        assert_eq!(
            grpc_timeout::decode(&headers),
            Ok(Some(Duration::from_millis(left)))
        );
        advance(Duration::from_millis(100)).await;
    }
    advance(Duration::from_millis(100)).await;
    let failure = sent(attempt(Context::new(), Some(deadline), 0))
        .await
        .unwrap_err();
    assert_eq!(failure.status.code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn only_a_retry_carries_the_number_of_previous_attempts() {
    assert!(
        !sent(attempt(Context::new(), None, 0))
            .await
            .unwrap()
            .contains_key(PREVIOUS_ATTEMPTS)
    );
    assert_eq!(
        sent(attempt(Context::new(), None, 2)).await.unwrap()[PREVIOUS_ATTEMPTS],
        "2"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_made_while_serving_a_retry_is_marked_as_a_retry() {
    let context = Context::new().with_serving_retry(true);
    let headers = sent(attempt(context, None, 0)).await.unwrap();
    assert_eq!(headers[PREVIOUS_ATTEMPTS], "1");
}

#[tokio::test(start_paused = true)]
async fn the_token_is_sent_as_a_sensitive_header_value() {
    let headers = sent(attempt(Context::new().with_bearer("secret"), None, 0))
        .await
        .unwrap();
    let value = &headers[header::AUTHORIZATION];
    assert!(value == "Bearer secret" && value.is_sensitive());
}
