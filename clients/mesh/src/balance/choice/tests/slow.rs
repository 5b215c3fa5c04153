//! One of three endpoints answers ten times slower than the others, which have occasional hiccups.

use std::collections::BTreeMap;

use rand::Rng;
use tokio::{task::JoinSet, time::sleep_until};

use super::*;

const USUAL: Duration = Duration::from_millis(60);
const SLOW: usize = 0;

/// Number of calls by endpoint and by the second in which they began.
type Counts = BTreeMap<(u64, u64), u32>;

/// Makes calls at random times; `latency` is an endpoint's latency at a time after the start.
async fn load(
    channel: Channel,
    per_second: f64,
    lasting: Duration,
    latency: impl Fn(usize, Duration) -> Duration,
) -> Counts {
    let mut counts = Counts::new();
    let mut calls = JoinSet::new();
    let began = Instant::now();
    let mut next = began;
    while next.duration_since(began) < lasting {
        sleep_until(next).await;
        let (endpoint, mut in_flight) = channel.choose(None, &Tried::default());
        let second = began.elapsed().as_secs();
        *counts.entry((endpoint, second)).or_default() += 1;
        let takes = latency(endpoint as usize, began.elapsed());
        calls.spawn(async move {
            sleep(takes).await;
            in_flight.record_headers();
            in_flight.finish(Verdict::Good);
        });
        while calls.try_join_next().is_some() {}
        next += Duration::from_secs_f64(-(1.0 - rand::rng().random::<f64>()).ln() / per_second);
    }
    calls.join_all().await;
    counts
}

/// The share of the calls from `from` to `to` seconds that went to the endpoint.
fn share(counts: &Counts, endpoint: usize, from: u64, to: u64) -> f64 {
    let within = counts
        .iter()
        .filter(|((_, second), _)| (from..to).contains(second));
    let (mut own, mut all) = (0, 0);
    for ((number, _), count) in within {
        all += count;
        own += if *number == endpoint as u64 { *count } else { 0 };
    }
    f64::from(own) / f64::from(all)
}

/// One answer in 300 takes half a second longer: too few to affect the 99th percentile.
fn hiccup() -> Duration {
    if rand::rng().random_bool(1.0 / 300.0) {
        500 * MS
    } else {
        Duration::ZERO
    }
}

/// All endpoints answer quickly, except one that is ten times slower during the seconds `slow`.
async fn one_slow(per_second: f64, lasting: Duration, slow: std::ops::Range<u64>) -> Counts {
    let channel = Channel::new(&[None; 3], 512).await;
    load(channel, per_second, lasting, |endpoint, at| {
        if endpoint == SLOW && slow.contains(&at.as_secs()) {
            10 * USUAL
        } else {
            USUAL + hiccup()
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_gets_hardly_any_calls_although_the_others_have_hiccups() {
    for per_second in [20.0, 75.0, 300.0] {
        let counts = one_slow(per_second, Duration::from_secs(210), 10..u64::MAX).await;
        let share = share(&counts, SLOW, 12, 210);
        assert!(share < 0.005, "{share} of {per_second} calls a second");
        println!("one of three ten times slower, {per_second} calls a second: {share:.4} go to it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_delay_of_all_calls_does_not_readmit_the_slow_endpoint() {
    let channel = Channel::new(&[None; 3], 512).await;
    // Every five seconds no answer arrives for 300 ms, and then all of them at once.
    let counts = load(channel, 75.0, Duration::from_secs(210), |endpoint, at| {
        let slow = endpoint == SLOW && at >= Duration::from_secs(10);
        let takes = if slow { 10 * USUAL } else { USUAL };
        let into = (at + takes).as_millis() as u64 % 5_000;
        takes + Duration::from_millis(300_u64.saturating_sub(into))
    })
    .await;
    let share = share(&counts, SLOW, 12, 210);
    assert!(share < 0.005, "{share}");
}

#[tokio::test(start_paused = true)]
async fn a_recovered_endpoint_gets_its_share_back() {
    // At low call rates one probe a minute detects the recovery.
    for (per_second, within) in [(75.0, 30), (2.0, 180)] {
        let last = 60 + within + 60;
        let counts = one_slow(per_second, Duration::from_secs(last), 10..60).await;
        let (before, after) = (
            share(&counts, SLOW, 20, 60),
            share(&counts, SLOW, 60 + within, last),
        );
        assert!(
            before < 0.05,
            "{before} of {per_second} calls a second while it was slow"
        );
        assert!(
            after > 0.15,
            "{after} of {per_second} calls a second {within} s later"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn widely_varying_latencies_exclude_no_endpoint() {
    let channel = Channel::new(&[None; 3], 512).await;
    // One in twenty takes five times the median or more.
    let latency = |_, _| {
        let normal = (0..12).map(|_| rand::rng().random::<f64>()).sum::<f64>() - 6.0;
        USUAL.mul_f64(normal.exp())
    };
    let counts = load(channel, 75.0, Duration::from_secs(300), latency).await;
    for endpoint in 0..3 {
        for from in (0..300).step_by(30) {
            let share = share(&counts, endpoint, from, from + 30);
            assert!(
                (0.15..0.55).contains(&share),
                "{share} for {endpoint} from {from} s on"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_slow_endpoint_gets_calls_when_the_others_are_full() {
    let channel = Channel::new(&[None; 3], 10).await;
    let answer = |endpoint| if endpoint == SLOW { 10 * USUAL } else { USUAL };
    // First all three get a score.
    for _ in 0..100 {
        let mut begun = Vec::new();
        for _ in 0..3 {
            begun.push(channel.choose(None, &Tried::default()));
        }
        begun.sort_by_key(|(endpoint, _)| answer(*endpoint as usize));
        for (endpoint, mut in_flight) in begun {
            sleep(answer(endpoint as usize)).await;
            in_flight.record_headers();
            in_flight.finish(Verdict::Good);
        }
    }
    let begun: Vec<_> = (0..20).map(|_| channel.choose(None, &Tried::default())).collect();
    let first = begun.iter().position(|(endpoint, _)| *endpoint == SLOW as u64);
    assert!(first.is_some_and(|first| first >= 14), "{first:?}");
}
