//! `weft dlq replay`: replays one dead letter, a group or all, or shows what a replay would change.

use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use proto::ops::v1::{
    DeadLetter, DeadLetterState, GetDeadLetterRequest, GetReplayRunRequest, RehearseReplayRequest,
    RehearseReplayResponse, ReplayDeadLetterGroupRequest, ReplayDeadLetterRequest, ReplayMode, ReplayRun,
    ReplayRunState,
};
use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;

use super::{GET_METHOD, find, groups, show};
use crate::{
    clients::Clients,
    duration,
    failure::{During as _, Failure},
    globals::{self, Format},
    output::{self, Table, short_name},
    paging::Limit,
    service::Service,
};

/// How often a replay's outcome is queried.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Written by hand, because clap's own usage shows options side by side that exclude each other.
const USAGE: &str = "\
weft dlq replay [OPTIONS] <DEAD_LETTER> [--dry-run | --wait <WAIT>]
       weft dlq replay [OPTIONS] <--group <FINGERPRINT>|--all> [--canary] [--rate <RATE>] [--wait <WAIT>]";

const AFTER_HELP: &str = "\
Exit codes: 0 when everything that was replayed took effect, or is still replayed of a group or all; 1 when something failed
again, or one dead letter's outcome is not known in time; 2 wrong usage. With --dry-run: 1 when it would fail again.";

#[derive(Debug, Args)]
#[command(override_usage = USAGE, after_help = AFTER_HELP, group = ArgGroup::new("replayed")
    .args(["dead_letter", "group", "all"]).required(true))]
pub(crate) struct Arguments {
    /// The dead letter's id
    #[arg(value_parser = globals::parse_uuid)]
    dead_letter: Option<Uuid>,
    /// All open dead letters with this fingerprint, as `weft dlq groups` lists it; the oldest 10,000 at once
    #[arg(long, value_name = "FINGERPRINT", group = "many")]
    group: Option<String>,
    /// All open dead letters of all services; the oldest 10,000 of each at once
    #[arg(long, group = "many")]
    all: bool,
    /// One of them, then ten, then the rest; the first failure of the same kind stops it. Only beside --group or --all
    #[arg(long, requires = "many")]
    canary: bool,
    /// Replays a second, 1 to 1000, of each service. Only beside --group or --all
    #[arg(long, requires = "many", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Only tell what the replay of one dead letter would change
    #[arg(long, conflicts_with_all = ["many", "wait"])]
    dry_run: bool,
    /// How long to wait for the outcome; the replay goes on afterwards
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    wait: Duration,
}

pub(crate) async fn run(clients: &Clients, format: Format, arguments: Arguments) -> Result<(), Failure> {
    match (arguments.dead_letter, &arguments.group) {
        (Some(id), _) if arguments.dry_run => dry_run(clients, format, id, String::new()).await,
        (Some(id), _) => {
            let (service, _) = find(clients, id).await?;
            let request = ReplayDeadLetterRequest {
                dead_letter_id: id.to_string(),
                request_id: clients.request_id(),
            };
            let answer = clients
                .dead_letters(service)
                .replay_dead_letter(clients.request(request)?)
                .await;
            answer.during("ops.v1.DeadLetterService/ReplayDeadLetter")?;
            wait_for_outcome(clients, format, service, id, arguments.wait).await
        }
        (None, Some(fingerprint)) => replay_group(clients, format, fingerprint, &arguments).await,
        (None, None) => replay_all(clients, format, &arguments).await,
    }
}

/// Waits for the outcome of a replay, at most `wait`, and prints the dead letter.
///
/// # Errors
/// When it failed again, or the outcome is not known in time.
pub(crate) async fn wait_for_outcome(
    clients: &Clients,
    format: Format,
    service: Service,
    id: Uuid,
    wait: Duration,
) -> Result<(), Failure> {
    let started_at = Instant::now();
    loop {
        let request = GetDeadLetterRequest {
            dead_letter_id: id.to_string(),
        };
        let answer = clients
            .dead_letters(service)
            .get_dead_letter(clients.untracked_request(request)?)
            .await;
        let answer = answer.during(GET_METHOD)?.into_inner();
        let state = answer
            .dead_letter
            .as_ref()
            .map(DeadLetter::state)
            .unwrap_or_default();
        if state == DeadLetterState::Replaying && started_at.elapsed() < wait {
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        }
        show::print(format, service, &answer)?;
        return match state {
            DeadLetterState::Resolved => Ok(()),
            DeadLetterState::Replaying => Err(Failure::Other(anyhow::anyhow!(
                "the outcome is not known yet: weft dlq show {id}"
            ))),
            _ => Err(Failure::Other(anyhow::anyhow!("it failed again"))),
        };
    }
}

/// Prints what a replay would change. `body_json` replaces the dead letter's own body unless it is empty.
pub(crate) async fn dry_run(
    clients: &Clients,
    format: Format,
    id: Uuid,
    body_json: String,
) -> Result<(), Failure> {
    let (service, _) = find(clients, id).await?;
    let request = RehearseReplayRequest {
        dead_letter_id: id.to_string(),
        body_json,
    };
    let answer = clients
        .dead_letters(service)
        .rehearse_replay(clients.request(request)?)
        .await;
    let answer = answer
        .during("ops.v1.DeadLetterService/RehearseReplay")?
        .into_inner();
    match format {
        Format::Json => output::print_json(&output::json(&answer)?)?,
        Format::Table => print_dry_run(id, &answer),
    }
    if answer.would_resolve {
        Ok(())
    } else {
        Err(Failure::AlreadyReported)
    }
}

fn print_dry_run(id: Uuid, answer: &RehearseReplayResponse) {
    if !answer.would_resolve {
        println!(
            "it would fail again: {} {}: {}",
            short_name(answer.error_class().as_str_name()),
            answer.error_code,
            answer.error_message
        );
        eprintln!("next: weft dlq edit {id} --body FILE --reason REASON --dry-run");
        return;
    }
    println!("it would take effect; nothing has been changed\n");
    let mut table = Table::new(
        ["TABLE", ">ADDED", ">CHANGED", ">REMOVED"],
        "no rows would change",
    );
    for change in &answer.tables {
        table.row([
            change.table.clone(),
            change.inserted_count.to_string(),
            change.updated_count.to_string(),
            change.deleted_count.to_string(),
        ]);
    }
    print!("{table}");
    for event in &answer.events {
        println!(
            "publishes  {} of {} version {}",
            event.event_type, event.aggregate_id, event.aggregate_version
        );
    }
    eprintln!("next: weft dlq replay {id}");
}

async fn replay_group(
    clients: &Clients,
    format: Format,
    fingerprint: &str,
    arguments: &Arguments,
) -> Result<(), Failure> {
    let service = find_service(clients, fingerprint).await?;
    let run = start(clients, service, fingerprint, arguments).await?;
    let run = wait_for_run(clients, service, run, Instant::now() + arguments.wait).await?;
    match format {
        Format::Json => output::print_json(&output::json(&run)?)?,
        Format::Table => output::print_fields(&[
            ("run", run.id.clone()),
            ("state", short_name(run.state().as_str_name())),
            ("dead letters", run.total_count.to_string()),
            ("sent", run.sent_count.to_string()),
            ("resolved", run.resolved_count.to_string()),
            ("failed again", run.failed_count.to_string()),
        ]),
    }
    check_runs(
        &[(service, run)],
        &format!("weft dlq list --fingerprint {fingerprint}"),
    )
}

/// Starts one run in each service that has open dead letters, and waits for all.
async fn replay_all(clients: &Clients, format: Format, arguments: &Arguments) -> Result<(), Failure> {
    let mut started = Vec::new();
    for service in Service::ALL {
        match start(clients, service, "", arguments).await {
            Ok(run) => started.push((service, run)),
            // No dead letter is open there, or it does not implement dead letters.
            Err(Failure::Call(call))
                if matches!(call.status.code(), Code::FailedPrecondition | Code::Unimplemented) => {}
            Err(failure) => return Err(failure),
        }
    }
    let until = Instant::now() + arguments.wait;
    let mut runs = Vec::new();
    for (service, run) in started {
        runs.push((service, wait_for_run(clients, service, run, until).await?));
    }
    match format {
        Format::Json => {
            let rows: Result<Vec<Value>, Failure> = runs
                .iter()
                .map(|(service, run)| Ok(json!({"service": service.name(), "run": output::json(run)?})))
                .collect();
            output::print_json(&json!({"runs": rows?}))?;
        }
        Format::Table => print!("{}", table(&runs)),
    }
    check_runs(&runs, "weft dlq groups")
}

fn table(runs: &[(Service, ReplayRun)]) -> Table {
    let heading = [
        "SERVICE",
        "RUN",
        "STATE",
        ">DEAD LETTERS",
        ">SENT",
        ">RESOLVED",
        ">FAILED AGAIN",
    ];
    let mut table = Table::new(heading, "no dead letter is open");
    for (service, run) in runs {
        table.row([
            service.name().to_owned(),
            run.id.clone(),
            short_name(run.state().as_str_name()),
            run.total_count.to_string(),
            run.sent_count.to_string(),
            run.resolved_count.to_string(),
            run.failed_count.to_string(),
        ]);
    }
    table
}

/// Starts a replay run. An empty `fingerprint` means all groups.
async fn start(
    clients: &Clients,
    service: Service,
    fingerprint: &str,
    arguments: &Arguments,
) -> Result<ReplayRun, Failure> {
    let mode = if arguments.canary {
        ReplayMode::Canary
    } else {
        ReplayMode::Straight
    };
    let request = ReplayDeadLetterGroupRequest {
        fingerprint: fingerprint.to_owned(),
        request_id: clients.request_id(),
        rate: arguments.rate,
        mode: mode.into(),
    };
    let answer = clients
        .dead_letters(service)
        .replay_dead_letter_group(clients.request(request)?)
        .await;
    let answer = answer.during("ops.v1.DeadLetterService/ReplayDeadLetterGroup")?;
    Ok(answer.into_inner().run.unwrap_or_default())
}

/// Polls until the run has ended or the time is up.
async fn wait_for_run(
    clients: &Clients,
    service: Service,
    mut run: ReplayRun,
    until: Instant,
) -> Result<ReplayRun, Failure> {
    while run.state() == ReplayRunState::Running && Instant::now() < until {
        tokio::time::sleep(POLL_INTERVAL).await;
        let request = GetReplayRunRequest {
            replay_run_id: run.id.clone(),
        };
        let answer = clients
            .dead_letters(service)
            .get_replay_run(clients.untracked_request(request)?)
            .await;
        let answer = answer.during("ops.v1.DeadLetterService/GetReplayRun")?;
        run = answer.into_inner().run.unwrap_or_default();
    }
    Ok(run)
}

/// Fails if a run stopped or a dead letter failed again. `next` is the command that shows those.
fn check_runs(runs: &[(Service, ReplayRun)], next: &str) -> Result<(), Failure> {
    if runs
        .iter()
        .any(|(_, run)| run.state() == ReplayRunState::Stopped || run.failed_count > 0)
    {
        eprintln!("next: {next}");
        return Err(Failure::AlreadyReported);
    }
    if runs.iter().any(|(_, run)| run.state() == ReplayRunState::Running) {
        eprintln!("it goes on in the background; next: weft dlq groups");
    }
    Ok(())
}

async fn find_service(clients: &Clients, fingerprint: &str) -> Result<Service, Failure> {
    for service in Service::ALL {
        let groups = groups::fetch(clients, service, Limit { limit: 1_000 }).await?;
        if groups.rows.iter().any(|group| group.fingerprint == fingerprint) {
            return Ok(service);
        }
    }
    Err(Failure::Other(anyhow::anyhow!(
        "no open dead letter has the fingerprint {fingerprint}: weft dlq groups lists them"
    )))
}
