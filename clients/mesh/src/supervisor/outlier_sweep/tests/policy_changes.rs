//! The policy changes while endpoints are ejected and results are counted.

use tokio::time::advance;

use super::*;

#[tokio::test(start_paused = true)]
async fn another_policy_applies_to_what_is_counted_and_ejected() {
    let endpoints = Endpoints::new(6, None).await;
    endpoints.call_all(&ONE_OF_SIX);
    advance(100 * SECOND).await;
    endpoints.set_policy(Some(by_success_rate())).await;
    endpoints.wait(10 * SECOND).await;
    assert!(
        endpoints.ejected().is_empty(),
        "nothing counts from before the policy"
    );

    // A shorter interval takes into account what has passed of the present one.
    endpoints.call_all(&ONE_OF_SIX);
    endpoints.wait(4 * SECOND).await;
    let quick = OutlierDetection {
        interval: 5 * SECOND,
        ..by_success_rate()
    };
    endpoints.set_policy(Some(quick.clone())).await;
    assert!(endpoints.ejected().is_empty());
    endpoints.wait(SECOND).await;
    assert_eq!(endpoints.ejected(), [2]);

    // The next sweep applies another ejection time to the ejection that is under way.
    let brief = OutlierDetection {
        base_ejection_time: 7 * SECOND,
        ..quick.clone()
    };
    endpoints.set_policy(Some(brief)).await;
    endpoints.wait(5 * SECOND).await;
    assert_eq!(endpoints.ejection(2).1, 2);
    endpoints.wait(5 * SECOND).await;
    assert!(endpoints.ejected().is_empty());

    // Without a policy, or with one that has no algorithm, its ejections end, and its multipliers are forgotten.
    for none in [None, Some(policy())] {
        endpoints.set_policy(Some(quick.clone())).await;
        endpoints.call_all(&ONE_OF_SIX);
        endpoints.wait(5 * SECOND).await;
        assert_eq!(endpoints.ejected(), [2]);
        endpoints.set_policy(none).await;
        assert!(endpoints.ejected().is_empty());
        assert!(!endpoints.sweeps.is_finished());
    }
    endpoints.set_policy(Some(quick)).await;
    endpoints.call_all(&ONE_OF_SIX);
    endpoints.wait(5 * SECOND).await;
    assert_eq!(endpoints.ejection(2).1, 30, "the first ejection again");
}

#[tokio::test(start_paused = true)]
async fn ejections_by_the_breaker_outlast_the_policy() {
    let endpoints = Endpoints::new(5, Some(by_success_rate())).await;
    endpoints.call(0, 7, 0);
    endpoints.set_policy(None).await;
    assert_eq!(endpoints.ejected(), [0]);
}

#[tokio::test(start_paused = true)]
async fn times_beyond_the_clock_are_no_error() {
    let far = Duration::from_secs(315_576_000_000);
    let policy = OutlierDetection {
        base_ejection_time: far,
        max_ejection_time: far,
        ..by_success_rate()
    };
    let endpoints = Endpoints::new(6, Some(policy.clone())).await;
    endpoints.call_all(&ONE_OF_SIX);
    endpoints.wait(20 * SECOND).await;
    assert_eq!(endpoints.ejected(), [2]);
    endpoints
        .set_policy(Some(OutlierDetection {
            interval: far,
            ..policy
        }))
        .await;
    endpoints.wait(1_000 * SECOND).await;
    assert!(!endpoints.sweeps.is_finished());
}
