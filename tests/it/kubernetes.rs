//! Runs the overlays in `k8s/` as processes, as their pods would run.

use proto::claims::v1::claim_service_client::ClaimServiceClient;
use tests::{Options, Pod, Stack};
use tonic::service::interceptor::InterceptedService;
use uuid::Uuid;

use crate::{
    claims_fixture::{advice, file, import},
    samples,
};

#[tokio::test(flavor = "multi_thread")]
async fn production_runs_with_a_read_only_root_as_another_user_and_takes_a_remittance() {
    let stack = Stack::with(Options::default().only(&[])).await;
    let pods = Pod::start_all("production", &stack).await;
    let names: Vec<_> = pods.iter().map(Pod::name).collect();
    assert_eq!(names, ["claims", "order", "payment"]);
    for pod in &pods {
        pod.ready().await;
    }
    let biller = stack.token("al-noor", &["clerk", "biller", "viewer"]);
    let claims = ClaimServiceClient::new(InterceptedService::new(pods[0].channel(), biller));
    crate::claims_fixture::filed(&claims, samples::claim("POD")).await;
    let document = file(&[advice("POD", &[("A1", "100", "100", "")])]);
    // The upload is stored in a file until it is complete.
    let report = import(&claims, &Uuid::new_v4().to_string(), &document)
        .await
        .unwrap()
        .report
        .unwrap();
    assert_eq!((report.claim_count, report.booked_lines), (1, 1));
    let stopped = futures_util::future::join_all(pods.iter().map(Pod::stop)).await;
    for (pod, status) in pods.iter().zip(stopped) {
        assert!(status.success(), "{}\n{}", pod.name(), pod.log());
    }
}
