//! Searches the highest rate that keeps the latency limit, by bisection.

use std::{sync::Arc, time::Duration};

use crate::{
    completion::{self, Completion},
    load::{Answers, Load, OnDrop},
    requests::Kind,
    system::System,
};

/// Lowest rate that is searched, in orders a second.
const LOWEST: f64 = 1.0;
/// How long the backlog of an overload may take to complete before the next trial begins.
pub(crate) const DRAINED: Duration = Duration::from_secs(180);

/// Parameters of the search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    pub(crate) start_rate: f64,
    pub(crate) precision: f64,
    pub(crate) limit: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

impl Search {
    /// Searches the highest rate that holds; zero when none does.
    ///
    /// # Errors
    /// When a server does not answer, or the backlog of an overload never completes.
    pub(crate) async fn run(&self, system: &System, load: &Arc<Load>, kind: Kind) -> anyhow::Result<f64> {
        let (mut held, mut failed) = (0.0, f64::INFINITY);
        let mut rate = self.start_rate;
        while rate >= LOWEST && failed / held > self.precision {
            match self.trial(system, load, kind, rate).await? {
                None => held = rate,
                Some(why) => {
                    failed = rate;
                    println!("  {rate:7.1}/s fails: {why}");
                }
            }
            rate = if failed.is_infinite() {
                2.0 * rate
            } else {
                f64::midpoint(held, failed)
            };
        }
        Ok(held)
    }

    /// Tries a rate; returns the reason if it does not hold.
    async fn trial(
        &self,
        system: &System,
        load: &Arc<Load>,
        kind: Kind,
        rate: f64,
    ) -> anyhow::Result<Option<String>> {
        let warm = load.open(rate, self.warm_up, OnDrop::Stop).await;
        let mut why = (warm.dropped > 0).then(|| "calls pile up".to_owned());
        if why.is_none() {
            let answers = load.open(rate, self.measure, OnDrop::Stop).await;
            why = self.broken_by(&answers);
            let completion = Completion::wait(system, kind, load.sum(), completion::WITHIN).await?;
            why = why.or_else(|| completion.problems.first().cloned());
            if why.is_none() {
                println!("  {rate:7.1}/s holds: p95 {:.1} ms", answers.quantile(0.95));
            }
        }
        let drained = Completion::wait(system, kind, load.sum(), DRAINED).await?;
        anyhow::ensure!(
            drained.problems.is_empty(),
            "not settled {DRAINED:?} after a load: {}",
            drained.problems.join("; ")
        );
        Ok(why)
    }

    /// The limit that the answers exceed, if any.
    pub(crate) fn broken_by(&self, answers: &Answers) -> Option<String> {
        let p95 = answers.quantile(0.95);
        if let Some((error, count)) = answers.errors.first_key_value() {
            Some(format!("{count} times {error}"))
        } else if answers.dropped > 0 {
            Some(format!("{} arrivals dropped", answers.dropped))
        } else if answers.refused > 0 {
            Some(format!("{} calls refused", answers.refused))
        } else if p95 >= self.limit.as_secs_f64() * 1_000.0 {
            Some(format!("p95 {p95:.1} ms"))
        } else {
            None
        }
    }
}
