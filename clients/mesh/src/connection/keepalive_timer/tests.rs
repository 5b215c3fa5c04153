use std::future::poll_fn;

use tokio::time::{advance, timeout};

use super::*;

const MS: Duration = Duration::from_millis(1);

struct Peer {
    activity: Arc<Activity>,
    timer: KeepaliveTimer,
}

impl Peer {
    /// A peer that has announced that it allows frequent pings.
    fn new(tuning: &Tuning) -> Peer {
        Peer::with(tuning, true, &PingBackoff::default())
    }

    fn with(tuning: &Tuning, allows_pings: bool, ping_backoff: &PingBackoff) -> Peer {
        let activity = Arc::new(Activity::new(allows_pings));
        let timer = KeepaliveTimer::new(Arc::clone(&activity), tuning, ping_backoff);
        Peer { activity, timer }
    }

    /// Sleeps as hyper does after it has received something.
    fn before_ping(&self) -> Pin<Box<dyn Sleep>> {
        self.activity.record_read();
        self.timer.sleep_until(self.timer.now() + self.timer.interval())
    }

    /// Sleeps as hyper does after it has sent a ping.
    fn after_ping(&self) -> Pin<Box<dyn Sleep>> {
        self.timer.sleep_until(self.timer.now() + self.timer.timeout())
    }
}

/// How long `sleep` takes.
async fn slept(sleep: &mut Pin<Box<dyn Sleep>>) -> Duration {
    let began = Instant::now();
    poll_fn(|cx| sleep.as_mut().poll(cx)).await;
    began.elapsed()
}

fn about(slept: Duration, expected: Duration) -> bool {
    (expected..expected + 5 * MS).contains(&slept)
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_pinged_at_the_keepalive_interval() {
    let peer = Peer::new(&Tuning::default());
    assert!(about(slept(&mut peer.before_ping()).await, 20_000 * MS));
    assert!(about(slept(&mut peer.after_ping()).await, 10_000 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_waiting_calls_is_pinged_soon_and_closed_soon() {
    let peer = Peer::new(&Tuning::default());
    let waiting = peer.activity.begin_wait();
    assert!(about(slept(&mut peer.before_ping()).await, 500 * MS));
    let mut ping = peer.after_ping();
    assert!(!peer.activity.ping_overdue());
    assert!(timeout(251 * MS, slept(&mut ping)).await.is_err());
    assert!(peer.activity.ping_overdue(), "new calls avoid the connection");
    assert!(about(slept(&mut ping).await, 749 * MS));
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn a_call_on_an_idle_connection_brings_the_ping_forward() {
    let peer = Peer::new(&Tuning::default());
    let mut idle = peer.before_ping();
    assert!(timeout(9_000 * MS, slept(&mut idle)).await.is_err());
    let sleeping = tokio::spawn(async move { slept(&mut idle).await });
    tokio::task::yield_now().await;
    let _waiting = peer.activity.begin_wait();
    assert!(about(sleeping.await.unwrap(), 500 * MS));
}

#[tokio::test(start_paused = true)]
async fn calls_on_a_connection_in_use_wake_no_timer_and_it_is_still_pinged() {
    let peer = Peer::new(&Tuning::default());
    let mut idle = peer.before_ping();
    for _ in 0..100 {
        let answered = peer.activity.begin_wait();
        assert!(timeout(10 * MS, slept(&mut idle)).await.is_err());
        peer.activity.record_read();
        drop(answered);
        assert!(timeout(10 * MS, slept(&mut idle)).await.is_err());
        assert!(!peer.activity.wake_on_call());
    }
    let _waiting = peer.activity.begin_wait();
    assert!(about(slept(&mut idle).await, 500 * MS));
}

#[tokio::test(start_paused = true)]
async fn any_received_byte_counts_as_an_answer_to_the_ping() {
    let peer = Peer::new(&Tuning::default());
    let _waiting = peer.activity.begin_wait();
    let mut ping = peer.after_ping();
    assert!(timeout(900 * MS, slept(&mut ping)).await.is_err());
    peer.activity.record_read();
    assert!(!peer.activity.ping_overdue());
    assert!(about(slept(&mut ping).await, 1_000 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_ping_timeout_is_extended_once_after_the_process_itself_was_not_scheduled() {
    let peer = Peer::new(&Tuning::default());
    let _waiting = peer.activity.begin_wait();
    let mut ping = peer.after_ping();
    advance(5_000 * MS).await;
    assert!(about(slept(&mut ping).await, 1_000 * MS));
}

#[tokio::test(start_paused = true)]
async fn without_a_silence_setting_waiting_calls_do_not_change_the_pings() {
    let peer = Peer::new(&Tuning {
        silence_ms: 0,
        ..Tuning::default()
    });
    let _waiting = peer.activity.begin_wait();
    assert!(about(slept(&mut peer.before_ping()).await, 20_000 * MS));
    assert!(about(slept(&mut peer.after_ping()).await, 10_000 * MS));
}

/// What other gRPC servers allow by default: one ping in five minutes while calls are open, none otherwise.
const ALLOWED: Duration = Duration::from_secs(300);

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_announced_nothing_is_pinged_as_rarely_as_other_servers_allow() {
    let peer = Peer::with(&Tuning::default(), false, &PingBackoff::default());
    let mut idle = peer.before_ping();
    assert!(
        timeout(100 * ALLOWED, slept(&mut idle)).await.is_err(),
        "never while idle"
    );
    let _waiting = peer.activity.begin_wait();
    let waited = slept(&mut peer.before_ping()).await;
    assert!(waited > ALLOWED && waited < 2 * ALLOWED, "{waited:?}");
    assert!(about(slept(&mut peer.after_ping()).await, 10_000 * MS));
}

#[tokio::test(start_paused = true)]
async fn an_announcement_shortens_the_ping_interval_at_once() {
    let peer = Peer::with(&Tuning::default(), false, &PingBackoff::default());
    let _waiting = peer.activity.begin_wait();
    let mut idle = peer.before_ping();
    assert!(timeout(9_000 * MS, slept(&mut idle)).await.is_err());
    let sleeping = tokio::spawn(async move { slept(&mut idle).await });
    tokio::task::yield_now().await;
    peer.activity.record_read();
    peer.activity.set_allows_pings();
    assert!(about(sleeping.await.unwrap(), 500 * MS));
}

#[tokio::test(start_paused = true)]
async fn too_many_pings_double_the_interval_of_later_connections_even_if_the_peer_allows_pings() {
    let ping_backoff = PingBackoff::default();
    assert_eq!(ping_backoff.double(), 2);
    let peer = Peer::with(&Tuning::default(), true, &ping_backoff);
    let _waiting = peer.activity.begin_wait();
    assert!(about(
        slept(&mut peer.before_ping()).await,
        Duration::from_secs(620)
    ));
    (0..100).for_each(|_| {
        ping_backoff.double();
    });
    assert_eq!(ping_backoff.double(), 256, "bounded");
}
