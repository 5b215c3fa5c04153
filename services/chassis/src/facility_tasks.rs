//! Concurrent tasks counted by facility, so that a worker can pick next from the facility with the fewest: no
//! facility waits behind the backlog of another.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::JoinSet;

/// Running tasks, counted by facility. Dropping it aborts them.
#[derive(Debug, Default)]
pub struct FacilityTasks {
    tasks: JoinSet<()>,
    counter: Counter,
}

type Counts = BTreeMap<String, i32>;

#[derive(Clone, Debug, Default)]
struct Counter(Arc<Mutex<Counts>>);

/// Counts a task until it is dropped.
struct CountGuard {
    facility: String,
    counter: Counter,
}

impl FacilityTasks {
    /// Runs `work` for a facility.
    pub fn spawn(&mut self, facility: String, work: impl Future<Output = ()> + Send + 'static) {
        *self.counter.counts().entry(facility.clone()).or_default() += 1;
        let guard = CountGuard {
            facility,
            counter: self.counter.clone(),
        };
        self.tasks.spawn(async move {
            let _guard = guard;
            work.await;
        });
    }

    /// The number of running tasks.
    pub fn count(&self) -> usize {
        self.tasks.len()
    }

    /// The facilities with running tasks and the number of tasks of each, as two columns of the same length.
    pub fn by_facility(&self) -> (Vec<String>, Vec<i32>) {
        self.counter.counts().clone().into_iter().unzip()
    }

    /// Waits until a task ends. `None` when no task is running.
    pub async fn join_next(&mut self) -> Option<()> {
        // The panic hook has logged a panic.
        let _ = self.tasks.join_next().await?;
        while self.tasks.try_join_next().is_some() {}
        Some(())
    }

    /// Waits until all tasks have ended.
    pub async fn join_all(mut self) {
        while self.join_next().await.is_some() {}
    }
}

impl Counter {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        let mut counts = self.counter.counts();
        if let Some(count) = counts.get_mut(&self.facility) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.facility);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn tasks_are_counted_by_facility_until_they_end_or_panic() {
        let mut tasks = FacilityTasks::default();
        assert!(tasks.join_next().await.is_none());
        let (end, ends) = oneshot::channel::<()>();
        for _ in 0..2 {
            tasks.spawn("al-noor".into(), std::future::pending());
        }
        tasks.spawn("elsewhere".into(), async move {
            ends.await.unwrap();
            panic!("it counts no longer");
        });
        assert_eq!(tasks.count(), 3);
        let facilities = vec!["al-noor".to_owned(), "elsewhere".to_owned()];
        assert_eq!(tasks.by_facility(), (facilities, vec![2, 1]));
        end.send(()).unwrap();
        assert!(tasks.join_next().await.is_some());
        assert_eq!(tasks.count(), 2);
        assert_eq!(tasks.by_facility(), (vec!["al-noor".to_owned()], vec![2]));
    }
}
