use tokio::time::advance;

use super::*;

fn breakers(count: usize) -> Vec<Breaker> {
    let ejections = Arc::new(Ejections::default());
    ejections.set_connected(count);
    (0..count).map(|_| Breaker::new(Arc::clone(&ejections))).collect()
}

fn eject(breaker: &mut Breaker) -> bool {
    (0..CONSECUTIVE_FAILURES).any(|_| breaker.record_failure(None) == Consequence::Ejected)
}

#[tokio::test(start_paused = true)]
async fn seven_failures_in_a_row_eject_and_a_good_probe_readmits() {
    let mut two = breakers(2);
    let breaker = &mut two[0];
    for _ in 1..CONSECUTIVE_FAILURES {
        assert_eq!(breaker.record_failure(None), Consequence::Nothing);
    }
    assert_eq!(breaker.record_failure(None), Consequence::Ejected);
    assert_eq!(breaker.admission(Instant::now()), Admission::Denied);
    advance(Duration::from_millis(1_201)).await;
    assert_eq!(breaker.admission(Instant::now()), Admission::ProbeDue);
    let probe = breaker.begin_probe();
    assert!(probe.is_some());
    assert_eq!(breaker.begin_probe(), None, "one probe at a time");
    assert_eq!(breaker.admission(Instant::now()), Admission::Denied);
    breaker.record_success(probe);
    assert_eq!(breaker.state(), &State::Closed);
}

#[tokio::test(start_paused = true)]
async fn every_bad_probe_doubles_the_ejection_to_a_minute() {
    let mut two = breakers(2);
    let breaker = &mut two[0];
    assert!(eject(breaker));
    for expected in [2, 4, 8, 16, 32, 60, 60] {
        advance(Duration::from_secs(80)).await;
        let probe = breaker.begin_probe();
        assert_eq!(breaker.record_failure(probe), Consequence::Ejected);
        let State::Ejected { until, .. } = breaker.state() else {
            panic!("ejected")
        };
        let length = until.duration_since(Instant::now()).as_secs_f64();
        assert!(
            (0.8 * f64::from(expected)..=1.2 * f64::from(expected)).contains(&length),
            "{length} s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn half_of_the_calls_failing_ejects_without_consecutive_failures() {
    let mut two = breakers(2);
    let ejected = (0..MIN_CALLS).any(|_| {
        two[0].record_success(None);
        two[0].record_failure(None) == Consequence::Ejected
    });
    assert!(ejected);
    assert!(matches!(two[0].state(), State::Ejected { reason, .. } if reason == "10 of 20 calls failed"));
}

#[tokio::test(start_paused = true)]
async fn at_least_half_of_the_endpoints_remain_and_a_single_one_always() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let mut all = breakers(count);
        assert_eq!(
            all.iter_mut()
                .filter_map(|breaker| eject(breaker).then_some(()))
                .count(),
            most,
            "of {count}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_disappears_permits_another_ejection() {
    let mut three = breakers(3);
    assert!(eject(&mut three[0]));
    assert!(!eject(&mut three[1]));
    drop(three.remove(0));
    assert!(eject(&mut three[0]));
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_a_result_allows_the_next_one() {
    let mut two = breakers(2);
    eject(&mut two[0]);
    advance(Duration::from_secs(2)).await;
    let probe = two[0].begin_probe().unwrap();
    two[0].abandon_probe(probe);
    assert_eq!(two[0].admission(Instant::now()), Admission::ProbeDue);
}

#[tokio::test(start_paused = true)]
async fn an_ejection_that_is_one_too_many_is_reported_once_in_a_window() {
    let mut two = breakers(2);
    assert!(eject(&mut two[0]));
    for _ in 0..2 {
        let reported: Vec<_> = (0..20)
            .map(|_| two[1].record_failure(None))
            .filter(|consequence| *consequence != Consequence::Nothing)
            .collect();
        let (method, reason) = ("consecutive_failures", "max_ejection_overflow");
        assert_eq!(reported, [Consequence::Unenforced { method, reason }]);
        advance(2 * WINDOW).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_probes_own_result_ends_the_ejection() {
    let mut two = breakers(2);
    eject(&mut two[0]);
    advance(Duration::from_secs(2)).await;
    let probe = two[0].begin_probe();
    // Calls that were sent before the ejection end now.
    assert_eq!(two[0].record_failure(None), Consequence::Nothing);
    assert!(!two[0].record_success(None));
    assert_eq!(two[0].admission(Instant::now()), Admission::Denied);
    assert!(two[0].record_success(probe));
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_an_answer_has_failed_after_five_seconds() {
    let mut two = breakers(2);
    eject(&mut two[0]);
    advance(Duration::from_secs(2)).await;
    let late = two[0].begin_probe();
    assert_eq!(two[0].expire_probe(), Consequence::Nothing);
    advance(PROBE_LIMIT).await;
    assert_eq!(two[0].admission(Instant::now()), Admission::ProbeOverdue);
    assert_eq!(two[0].expire_probe(), Consequence::Ejected);
    advance(Duration::from_secs(3)).await;
    let next = two[0].begin_probe();
    assert!(!two[0].record_success(late), "its result is outdated");
    assert!(two[0].record_success(next));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_readmitted_by_a_health_check_is_ejected_by_the_next_failure() {
    let mut two = breakers(2);
    eject(&mut two[0]);
    advance(Duration::from_secs(2)).await;
    let probe = two[0].begin_probe().unwrap();
    assert!(two[0].health_check_succeeded(probe));
    assert_eq!(two[0].record_failure(None), Consequence::Ejected);
}
