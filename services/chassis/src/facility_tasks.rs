//! Work of several facilities that runs at the same time. Who has how much of it decides whose is begun next: no facility
//! waits behind the backlog of another.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::JoinSet;

/// Tasks that run, counted by facility. Dropping it ends them.
#[derive(Debug, Default)]
pub struct FacilityTasks {
    tasks: JoinSet<()>,
    counter: Counter,
}

type Counts = BTreeMap<String, i32>;

#[derive(Clone, Debug, Default)]
struct Counter(Arc<Mutex<Counts>>);

/// A task's guard in the count, until it is dropped.
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

    /// How many tasks run.
    pub fn count(&self) -> usize {
        self.tasks.len()
    }

    /// The facilities whose tasks run, and how many tasks each has, as two columns of the same length.
    pub fn by_facility(&self) -> (Vec<String>, Vec<i32>) {
        self.counter.counts().clone().into_iter().unzip()
    }

    /// Waits until one has join_next. `None`: none runs.
    pub async fn join_next(&mut self) -> Option<()> {
        // The runtime has told of one that has panicked.
        let _ = self.tasks.join_next().await?;
        while self.tasks.try_join_next().is_some() {}
        Some(())
    }

    /// Waits until all have join_next.
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
        let counter = vec!["al-noor".to_owned(), "elsewhere".to_owned()];
        assert_eq!(tasks.by_facility(), (counter, vec![2, 1]));
        end.send(()).unwrap();
        assert!(tasks.join_next().await.is_some());
        assert_eq!(tasks.count(), 2);
        assert_eq!(tasks.by_facility(), (vec!["al-noor".to_owned()], vec![2]));
    }
}
