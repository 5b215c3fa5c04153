//! Ejections in the metrics of gRFC A91.

use opentelemetry::global;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};

use super::*;

/// The counts of ejections by detection method and by the reason for which they were not enforced.
fn counted(exporter: &InMemoryMetricExporter, target: &str) -> Vec<(String, String, u64)> {
    let exported = exporter.get_finished_metrics().unwrap();
    let mut counts = Vec::new();
    // The counters are cumulative: the last export has all.
    for metric in exported
        .last()
        .into_iter()
        .flat_map(|resource| resource.scope_metrics())
        .flat_map(|scope| scope.metrics())
    {
        let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else {
            continue;
        };
        for point in sum.data_points() {
            let attribute = |name: &str| {
                let mut attributes = point.attributes();
                let found = attributes.find(|attribute| attribute.key.as_str() == name);
                found.map(|attribute| attribute.value.as_str().into_owned())
            };
            let method = attribute("grpc.lb.outlier_detection.detection_method");
            if attribute("grpc.target").as_deref() == Some(target)
                && let Some(method) = method
            {
                let unenforced = attribute("grpc.lb.outlier_detection.unenforced_reason");
                let (_, kind) = metric.name().rsplit_once('.').unwrap();
                counts.push((
                    method,
                    unenforced.unwrap_or_else(|| kind.to_owned()),
                    point.value(),
                ));
            }
        }
    }
    counts.sort();
    counts
}

#[tokio::test(start_paused = true)]
async fn ejections_are_counted_by_their_method_and_without_enforcement_as_unenforced() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(exporter.clone())
        .build();
    global::set_meter_provider(provider.clone());
    let target = "static:counted";
    let endpoints = Endpoints::of_target(6, Some(by_failures(0)), target).await;
    for _ in 0..3 {
        endpoints.call_all(&ONE_OF_SIX);
        endpoints.wait(10 * SECOND).await;
        assert!(endpoints.ejected().is_empty());
    }
    endpoints.set_policy(Some(by_failures(100))).await;
    endpoints.call_all(&[99, 99, 60, 99, 50, 99]);
    endpoints.wait(10 * SECOND).await;
    assert_eq!(endpoints.ejected(), [4]);
    let both = OutlierDetection {
        success_rate: Some(SuccessRateEjection::default()),
        max_ejection_percent: Some(40),
        ..by_failures(100)
    };
    endpoints.set_policy(Some(both)).await;
    endpoints.call_all(&[99, 99, 60, 99, 0, 99]);
    endpoints.wait(10 * SECOND).await;
    assert_eq!(endpoints.ejected(), [2, 4]);
    assert_eq!(
        endpoints.ejection(2).0,
        "success rate 60 %, mean 91.2 %",
        "the one that is ejected has no calls"
    );
    provider.force_flush().unwrap();
    let expected = [
        ("failure_percentage", "ejections_enforced", 1),
        ("failure_percentage", "enforcement_percentage", 3),
        ("failure_percentage", "max_ejection_overflow", 1),
        ("success_rate", "ejections_enforced", 1),
    ]
    .map(|(method, kind, count)| (method.to_owned(), kind.to_owned(), count));
    assert_eq!(counted(&exporter, target), expected);
}
