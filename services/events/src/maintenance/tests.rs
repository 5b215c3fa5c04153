use std::sync::{Arc, Mutex};

use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

use super::*;

/// Collects the levels of what is logged on this thread.
#[derive(Clone, Default)]
struct Levels(Arc<Mutex<Vec<Level>>>);

impl Levels {
    fn recorded(&self) -> Vec<Level> {
        self.0.lock().unwrap().clone()
    }
}

impl Subscriber for Levels {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if event.metadata().target().starts_with("events") {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The levels logged within this time by work that fails every second, except in its tenth run.
async fn logged_within(time: Duration) -> Vec<Level> {
    let levels = Levels::default();
    let _here = tracing::subscriber::set_default(levels.clone());
    let mut runs = 0;
    let failing = run_every(Duration::from_millis(1), "a test", || {
        runs += 1;
        let succeeds = runs == 10;
        async move {
            if succeeds {
                Ok(())
            } else {
                Err(Error::Database(sqlx::Error::PoolTimedOut))
            }
        }
    });
    let _ = tokio::time::timeout(time, failing).await;
    levels.recorded()
}

#[tokio::test(start_paused = true)]
async fn a_short_failure_is_not_logged_as_a_warning() {
    // Nine failures, a success, and then failures for less time than a warning takes.
    let levels = logged_within(Duration::from_secs(9) + WARN_AFTER - Duration::from_secs(1)).await;
    assert!(levels.len() > 20, "{levels:?}");
    assert!(levels.iter().all(|level| *level == Level::INFO), "{levels:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_is_logged_as_a_warning() {
    let levels = logged_within(Duration::from_secs(9) + WARN_AFTER + Duration::from_secs(2)).await;
    assert_eq!(levels.last(), Some(&Level::WARN), "{levels:?}");
    assert!(levels.contains(&Level::INFO), "{levels:?}");
}
