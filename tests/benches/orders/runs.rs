//! The runs and their order.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};

use crate::{
    Arguments, Loop,
    completion::{self, Completion},
    counters::Counting,
    load::{Answers, Load, OnDrop},
    machine::Machine,
    release::Release,
    report::{self, Cost, Report},
    requests::{Kind, Requests},
    search::{DRAINED, Search},
    system::System,
};

/// A rate that was found but does not hold is multiplied by this, at most `TRIES` times.
const LOWERED: f64 = 0.9;
const TRIES: u32 = 4;

/// Runs everything; false when a run has failed.
///
/// # Errors
/// When a precondition is not met, or a system does not answer.
pub(crate) async fn all(arguments: Arguments) -> anyhow::Result<bool> {
    let mut releases = vec![Release::ours(arguments.binaries.as_deref())?];
    if let Some(against) = &arguments.against {
        releases.push(Release::against(against)?);
    }
    let machine = Machine::examine(&arguments.dir, arguments.allow_busy)?;
    println!("{machine}");
    if arguments.quick {
        println!("quick: the phases are too short for figures that are worth anything");
    }
    let mut reports = Vec::new();
    for round in 1..=arguments.rounds.unwrap_or(1) {
        for kind in &arguments.orders {
            for facilities in &arguments.facilities {
                for release in &releases {
                    let plan = Plan {
                        arguments: &arguments,
                        machine: &machine,
                        release,
                        kind: *kind,
                        facilities: *facilities,
                        round,
                    };
                    reports.extend(plan.run().await?);
                }
            }
        }
        // The first release runs on a colder machine: they alternate in being first, too.
        releases.reverse();
    }
    report::summary(&reports);
    Ok(reports.iter().all(|report| report.failures.is_empty()))
}

/// The runs of one fresh system.
#[derive(Clone, Copy)]
struct Plan<'a> {
    arguments: &'a Arguments,
    machine: &'a Machine,
    release: &'a Release,
    kind: Kind,
    facilities: u16,
    round: u16,
}

/// A system under load.
struct Running {
    system: System,
    load: Arc<Load>,
}

/// Kind of a measured phase.
enum Phase {
    Closed { callers: u32 },
    Hold { rate: f64, found: f64 },
}

impl Plan<'_> {
    async fn run(&self) -> anyhow::Result<Vec<Report>> {
        let running = self.start(&self.arguments.dir).await?;
        let mut reports = Vec::new();
        if self.arguments.runs.contains(&Loop::Closed) {
            for callers in &self.arguments.in_flight {
                let warm_up = self.arguments.warm_up.unwrap_or_default();
                running.load.closed(*callers, warm_up).await;
                let report = self
                    .measure(&running, Phase::Closed { callers: *callers })
                    .await?;
                reports.push(self.record(report)?);
            }
        }
        if self.arguments.runs.contains(&Loop::Open) {
            reports.extend(self.hold(&running).await?);
        }
        running.system.stop().await?;
        Ok(reports)
    }

    async fn start(&self, folder: &Path) -> anyhow::Result<Running> {
        let system = System::start(self.release, folder, self.arguments.keep)
            .await
            .with_context(|| format!("the system of {}", self.release.build))?;
        println!(
            "\n{} ({}): {} orders of {} facilities, round {}",
            self.release.name, self.release.build, self.kind, self.facilities, self.round
        );
        let names = (1..=self.facilities).map(|number| format!("bench-{number:04}"));
        let tokens: Vec<String> = names
            .map(|facility| system.token(&facility))
            .collect::<anyhow::Result<_>>()?;
        let requests = Requests::new(self.kind, &tokens)?;
        let load = Load::connect(&system, requests, self.arguments.connections).await?;
        Ok(Running { system, load })
    }

    /// Searches the highest rate and holds it; a rate that does not hold is lowered. `None` when no rate holds.
    async fn hold(&self, running: &Running) -> anyhow::Result<Option<Report>> {
        let search = self.search();
        let found = search.run(&running.system, &running.load, self.kind).await?;
        if found == 0.0 {
            println!("no rate holds");
            return Ok(None);
        }
        let mut rate = found;
        for _ in 1..TRIES {
            let report = self.measure(running, Phase::Hold { rate, found }).await?;
            let report = self.record(report)?;
            if report.failures.is_empty() {
                return Ok(Some(report));
            }
            rate *= LOWERED;
        }
        let report = self.measure(running, Phase::Hold { rate, found }).await?;
        self.record(report).map(Some)
    }

    async fn measure(&self, running: &Running, phase: Phase) -> anyhow::Result<Report> {
        let Running { system, load } = running;
        let rest = Completion::wait(system, self.kind, load.sum(), DRAINED).await?;
        ensure!(
            rest.problems.is_empty(),
            "not settled {DRAINED:?} after a load: {}",
            rest.problems.join("; ")
        );
        let counting = Counting::start(system).await?;
        let answers = match phase {
            Phase::Closed { callers } => {
                load.closed(callers, self.arguments.measure.unwrap_or_default())
                    .await
            }
            Phase::Hold { rate, .. } => {
                let hold = self.arguments.hold.unwrap_or(Duration::from_secs(600));
                load.open(rate, hold, OnDrop::Count).await
            }
        };
        let completion = Completion::wait(system, self.kind, load.sum(), completion::WITHIN).await?;
        let counted = counting.end(system).await?;
        let commit_to_ledger_ms = completion::commit_to_ledger(system).await?;
        Ok(Report {
            run: match phase {
                Phase::Closed { callers } => format!("{callers} in flight"),
                Phase::Hold { .. } => "held rate".to_owned(),
            },
            release: self.release.name,
            build: self.release.build.clone(),
            orders: self.kind,
            facilities: self.facilities,
            round: self.round,
            quick: self.arguments.quick,
            offered_rate: match phase {
                Phase::Closed { .. } => None,
                Phase::Hold { rate, .. } => Some(rate),
            },
            searched_rate: match phase {
                Phase::Closed { .. } => None,
                Phase::Hold { found, .. } => Some(found),
            },
            failures: self.failures(&phase, &answers, &completion),
            cost: Cost::new(&counted, answers.orders()),
            answers: report::Answered::new(&answers),
            commit_to_ledger_ms,
            completion,
            settings: system.settings.clone(),
            machine: self.machine.clone(),
        })
    }

    /// The reasons why a run has failed.
    fn failures(&self, phase: &Phase, answers: &Answers, completion: &Completion) -> Vec<String> {
        let mut failures = completion.problems.clone();
        match phase {
            Phase::Closed { .. } => {
                let errors = answers.errors.iter();
                failures.extend(errors.map(|(error, count)| format!("{count} times {error}")));
            }
            Phase::Hold { .. } => failures.extend(self.search().broken_by(answers)),
        }
        failures
    }

    fn search(&self) -> Search {
        Search {
            start_rate: self.arguments.start_rate,
            precision: self.arguments.precision,
            limit: self.arguments.limit,
            warm_up: self.arguments.warm_up.unwrap_or_default(),
            measure: self.arguments.measure.unwrap_or_default(),
        }
    }

    fn record(&self, report: Report) -> anyhow::Result<Report> {
        println!("{report}");
        if let Some(file) = &self.arguments.json {
            report.append(file)?;
        }
        Ok(report)
    }
}
