use std::future::poll_fn;

use tokio::time::{advance, timeout};

use super::*;

const MS: Duration = Duration::from_millis(1);

struct Peer {
    pulse: Arc<Pulse>,
    pace: Pace,
}

impl Peer {
    /// A peer that has announced that it bears pings.
    fn new(tuning: &Tuning) -> Peer {
        Peer::with(tuning, true, &Restraint::default())
    }

    fn with(tuning: &Tuning, bears_pings: bool, restraint: &Restraint) -> Peer {
        let pulse = Arc::new(Pulse::new(bears_pings));
        let pace = Pace::new(Arc::clone(&pulse), tuning, restraint);
        Peer { pulse, pace }
    }

    /// As hyper does when something was received just now.
    fn quiet(&self) -> Pin<Box<dyn Sleep>> {
        self.pulse.heard();
        self.pace.sleep_until(self.pace.now() + self.pace.interval())
    }

    /// As hyper does when it has sent a ping.
    fn asked(&self) -> Pin<Box<dyn Sleep>> {
        self.pace.sleep_until(self.pace.now() + self.pace.timeout())
    }
}

/// How long it sleeps, to the millisecond above.
async fn slept(sleep: &mut Pin<Box<dyn Sleep>>) -> Duration {
    let began = Instant::now();
    poll_fn(|cx| sleep.as_mut().poll(cx)).await;
    began.elapsed()
}

fn about(slept: Duration, expected: Duration) -> bool {
    (expected..expected + 5 * MS).contains(&slept)
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_pinged_at_the_keepalives_pace() {
    let peer = Peer::new(&Tuning::default());
    assert!(about(slept(&mut peer.quiet()).await, 20_000 * MS));
    assert!(about(slept(&mut peer.asked()).await, 10_000 * MS));
}

#[tokio::test(start_paused = true)]
async fn one_that_calls_wait_on_is_pinged_soon_and_given_up_soon() {
    let peer = Peer::new(&Tuning::default());
    let waiting = peer.pulse.wait();
    assert!(about(slept(&mut peer.quiet()).await, 500 * MS));
    let mut asked = peer.asked();
    assert!(!peer.pulse.overdue());
    assert!(timeout(251 * MS, slept(&mut asked)).await.is_err());
    assert!(peer.pulse.overdue(), "new calls avoid it");
    assert!(about(slept(&mut asked).await, 749 * MS));
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn a_call_on_an_idle_connection_brings_the_ping_forward() {
    let peer = Peer::new(&Tuning::default());
    let mut quiet = peer.quiet();
    assert!(timeout(9_000 * MS, slept(&mut quiet)).await.is_err());
    let sleeping = tokio::spawn(async move { slept(&mut quiet).await });
    tokio::task::yield_now().await;
    let _waiting = peer.pulse.wait();
    assert!(about(sleeping.await.unwrap(), 500 * MS));
}

#[tokio::test(start_paused = true)]
async fn calls_on_a_connection_in_use_wake_nothing_and_are_pinged_for_all_the_same() {
    let peer = Peer::new(&Tuning::default());
    let mut quiet = peer.quiet();
    for _ in 0..100 {
        let answered = peer.pulse.wait();
        assert!(timeout(10 * MS, slept(&mut quiet)).await.is_err());
        peer.pulse.heard();
        drop(answered);
        assert!(timeout(10 * MS, slept(&mut quiet)).await.is_err());
        assert!(!peer.pulse.dozing());
    }
    let _waiting = peer.pulse.wait();
    assert!(about(slept(&mut quiet).await, 500 * MS));
}

#[tokio::test(start_paused = true)]
async fn whatever_is_heard_counts_as_an_answer() {
    let peer = Peer::new(&Tuning::default());
    let _waiting = peer.pulse.wait();
    let mut asked = peer.asked();
    assert!(timeout(900 * MS, slept(&mut asked)).await.is_err());
    peer.pulse.heard();
    assert!(!peer.pulse.overdue());
    assert!(about(slept(&mut asked).await, 1_000 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_held_up_itself_blames_nobody_at_once() {
    let peer = Peer::new(&Tuning::default());
    let _waiting = peer.pulse.wait();
    let mut asked = peer.asked();
    advance(5_000 * MS).await;
    assert!(about(slept(&mut asked).await, 1_000 * MS));
}

#[tokio::test(start_paused = true)]
async fn without_a_silence_all_connections_are_alike() {
    let peer = Peer::new(&Tuning {
        silence_ms: 0,
        ..Tuning::default()
    });
    let _waiting = peer.pulse.wait();
    assert!(about(slept(&mut peer.quiet()).await, 20_000 * MS));
    assert!(about(slept(&mut peer.asked()).await, 10_000 * MS));
}

/// What servers of other makers allow by default: one ping in five minutes while calls are open, none else.
const ALLOWED: Duration = Duration::from_secs(300);

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_announced_nothing_is_pinged_as_seldom_as_other_makers_servers_allow() {
    let peer = Peer::with(&Tuning::default(), false, &Restraint::default());
    let mut idle = peer.quiet();
    assert!(
        timeout(100 * ALLOWED, slept(&mut idle)).await.is_err(),
        "never while idle"
    );
    let _waiting = peer.pulse.wait();
    let waited = slept(&mut peer.quiet()).await;
    assert!(waited > ALLOWED && waited < 2 * ALLOWED, "{waited:?}");
    assert!(about(slept(&mut peer.asked()).await, 10_000 * MS));
}

#[tokio::test(start_paused = true)]
async fn an_announcement_makes_silence_noticed_soon_at_once() {
    let peer = Peer::with(&Tuning::default(), false, &Restraint::default());
    let _waiting = peer.pulse.wait();
    let mut quiet = peer.quiet();
    assert!(timeout(9_000 * MS, slept(&mut quiet)).await.is_err());
    let sleeping = tokio::spawn(async move { slept(&mut quiet).await });
    tokio::task::yield_now().await;
    peer.pulse.heard();
    peer.pulse.announced();
    assert!(about(sleeping.await.unwrap(), 500 * MS));
}

#[tokio::test(start_paused = true)]
async fn too_many_pings_double_the_interval_of_later_connections_whatever_is_announced() {
    let restraint = Restraint::default();
    assert_eq!(restraint.double(), 2);
    let peer = Peer::with(&Tuning::default(), true, &restraint);
    let _waiting = peer.pulse.wait();
    assert!(about(slept(&mut peer.quiet()).await, Duration::from_secs(620)));
    (0..100).for_each(|_| {
        restraint.double();
    });
    assert_eq!(restraint.double(), 256, "bounded");
}
