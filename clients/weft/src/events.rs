//! `weft events …`: consumers, event logs, streams and held messages of the services.

mod held;
mod pause;
mod tail;

use std::time::Duration;

use clap::{Args, Subcommand};
use proto::ops::v1::{
    ApplyStreamsRequest, AuditEventsRequest, AuditEventsResponse, ListConsumersRequest,
    ListConsumersResponse, RepublishEventsRequest, StreamDifference,
};
use serde_json::{Value, json};

use crate::{
    clients::Clients,
    confirm::Confirmation,
    duration,
    failure::{During as _, Failure},
    globals::{Format, Globals},
    output::{self, Table},
    service::Service,
    suggestion,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how far each consumer is behind
    Lag(ServiceFilter),
    /// Compare the event logs with the stream; exit code 1 when the stream lacks something
    Audit {
        #[command(flatten)]
        filter: ServiceFilter,
        #[command(flatten)]
        window: Window,
    },
    /// Publish again what the stream lacks
    Rebuild {
        #[command(flatten)]
        filter: ServiceFilter,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Print the facility's events as they are published, until Ctrl-C
    Tail(tail::Arguments),
    /// List messages of the facility that the broker refuses, and that wait for that reason
    Held(ServiceFilter),
    /// Have held messages tried again at once
    Retry(ServiceFilter),
    /// Give a held message up: it is never published
    Discard {
        #[command(flatten)]
        message: held::MessageArg,
        /// Why it may be given up, 3 to 500 characters; kept in the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Bring the broker's streams and consumers to what the services want of them, as every start does
    Apply {
        #[command(flatten)]
        filter: ServiceFilter,
        /// Only tell what would change; exit code 1 when something would
        #[arg(long)]
        dry_run: bool,
    },
    /// Hold a consumer; its events wait
    Pause {
        /// The consumer, as `weft events lag` lists it
        consumer: String,
        /// Why, 3 to 500 characters; kept in the audit trail
        #[arg(long)]
        reason: String,
    },
    /// Let a consumer go on
    Resume {
        /// The consumer
        consumer: String,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ServiceFilter {
    /// Only this service; by default all
    #[arg(long, value_enum)]
    service: Option<Service>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Window {
    /// How far back; no further than the stream keeps events
    #[arg(long, default_value = "1d", value_parser = duration::parse)]
    since: Duration,
}

impl ServiceFilter {
    fn services(self) -> Vec<Service> {
        self.service
            .map_or(Service::ALL.to_vec(), |service| vec![service])
    }
}

impl Command {
    pub(crate) fn takes_request_id(&self) -> bool {
        matches!(
            self,
            Command::Rebuild { .. }
                | Command::Retry(_)
                | Command::Discard { .. }
                | Command::Apply { .. }
                | Command::Pause { .. }
                | Command::Resume { .. }
        )
    }
}

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    let format = globals.output;
    match command {
        Command::Lag(filter) => lag(&clients, format, filter).await,
        Command::Audit { filter, window } => audit(&clients, format, filter, window).await,
        Command::Rebuild {
            filter,
            window,
            confirmation,
        } => rebuild(&clients, format, filter, window, confirmation).await,
        Command::Tail(arguments) => tail::run(&clients, format, arguments).await,
        Command::Held(filter) => held::list(&clients, format, filter).await,
        Command::Retry(filter) => held::retry(&clients, format, filter).await,
        Command::Discard {
            message,
            reason,
            confirmation,
        } => held::discard(&clients, format, message, reason, confirmation).await,
        Command::Apply { filter, dry_run } => apply(&clients, format, filter, dry_run).await,
        Command::Pause { consumer, reason } => pause::pause(&clients, format, consumer, reason).await,
        Command::Resume { consumer } => pause::resume(&clients, format, consumer).await,
    }
}

async fn lag(clients: &Clients, format: Format, filter: ServiceFilter) -> Result<(), Failure> {
    clients.check_timeout::<ListConsumersRequest>()?;
    let mut found = Vec::new();
    let mut held = Vec::new();
    for service in filter.services() {
        let answer = consumers(clients, service).await?;
        held.push((service, answer.held_message_count));
        found.extend(answer.consumers.into_iter().map(|consumer| (service, consumer)));
    }
    if format == Format::Json {
        let rows: Result<Vec<Value>, Failure> = found
            .iter()
            .map(|(service, consumer)| {
                Ok(json!({"service": service.name(), "consumer": output::json(consumer)?}))
            })
            .collect();
        let held: Vec<Value> = held
            .iter()
            .map(|(service, count)| json!({"service": service.name(), "count": count.to_string()}))
            .collect();
        return output::print_json(&json!({"consumers": rows?, "heldMessages": held}));
    }
    let heading = [
        "CONSUMER",
        "SERVICE",
        "",
        ">WAITING",
        ">IN HAND",
        ">OLDEST",
        ">DEAD LETTERS",
        "WHY HELD",
    ];
    let mut table = Table::new(heading, "no consumers");
    for (service, consumer) in &found {
        table.row([
            consumer.name.clone(),
            service.name().to_owned(),
            if consumer.paused { "HELD" } else { "" }.to_owned(),
            consumer.pending_count.to_string(),
            consumer.unacknowledged_count.to_string(),
            consumer
                .lag
                .map(|lag| format!("{} s", lag.seconds))
                .unwrap_or_default(),
            consumer.dead_letter_count.to_string(),
            consumer.reason.clone(),
        ]);
    }
    print!("{table}");
    for (_, consumer) in found
        .iter()
        .filter(|(_, consumer)| consumer.gap_start_time.is_some())
    {
        println!(
            "{} missed events that were published from {} to {}: they left the stream first",
            consumer.name,
            output::timestamp(consumer.gap_start_time.as_ref()),
            output::timestamp(consumer.gap_end_time.as_ref()),
        );
    }
    for (service, count) in held.iter().filter(|(_, count)| *count > 0) {
        println!(
            "{}: the broker refuses {count} messages, which are held",
            service.name()
        );
        eprintln!("next: weft events held --service {}", service.name());
    }
    if let Some((_, held)) = found.iter().find(|(_, consumer)| consumer.paused) {
        eprintln!("next: weft events resume {}", held.name);
    } else if found.iter().any(|(_, consumer)| consumer.dead_letter_count > 0) {
        eprintln!("next: weft dlq groups");
    }
    Ok(())
}

async fn audit(
    clients: &Clients,
    format: Format,
    filter: ServiceFilter,
    window: Window,
) -> Result<(), Failure> {
    clients.check_timeout::<AuditEventsRequest>()?;
    let found = audit_services(clients, filter, window).await?;
    if format == Format::Json {
        let rows: Result<Vec<Value>, Failure> = found
            .iter()
            .map(|(service, audit)| Ok(json!({"service": service.name(), "audit": output::json(audit)?})))
            .collect();
        output::print_json(&json!({"audits": rows?}))?;
    } else {
        let mut table = Table::new(["SERVICE", ">LOGGED", ">WAITING", ">MISSING"], "no services");
        for (service, audit) in &found {
            table.row([
                service.name().to_owned(),
                audit.logged_count.to_string(),
                audit.pending_count.to_string(),
                audit.missing_count.to_string(),
            ]);
        }
        print!("{table}");
    }
    if found.iter().all(|(_, audit)| audit.missing_count == 0) {
        return Ok(());
    }
    eprintln!("the stream lacks events; next: weft events rebuild");
    Err(Failure::AlreadyReported)
}

async fn rebuild(
    clients: &Clients,
    format: Format,
    filter: ServiceFilter,
    window: Window,
    confirmation: Confirmation,
) -> Result<(), Failure> {
    clients.check_timeout::<RepublishEventsRequest>()?;
    let missing: u64 = audit_services(clients, filter, window)
        .await?
        .iter()
        .map(|(_, audit)| audit.missing_count)
        .sum();
    if missing > 0 {
        confirmation.ask(&format!("{missing} events will be published again."))?;
    }
    let mut rows = Vec::new();
    for service in filter.services() {
        let request = RepublishEventsRequest {
            window: Some(to_proto_duration(window.since)),
            request_id: clients.request_id(),
        };
        let answer = clients
            .events(service)
            .republish_events(clients.request(request)?)
            .await;
        let answer = answer.during("ops.v1.EventService/RepublishEvents")?.into_inner();
        rows.push((service, answer.republished_count));
    }
    if format == Format::Json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(service, count)| json!({"service": service.name(), "republishedCount": count.to_string()}))
            .collect();
        return output::print_json(&json!({"rebuilt": rows}));
    }
    for (service, count) in rows {
        println!("{:<16} {count} events published again", service.name());
    }
    eprintln!("next: weft events audit");
    Ok(())
}

async fn apply(
    clients: &Clients,
    format: Format,
    filter: ServiceFilter,
    dry_run: bool,
) -> Result<(), Failure> {
    let mut found: Vec<StreamDifference> = Vec::new();
    for service in filter.services() {
        let request = ApplyStreamsRequest {
            request_id: clients.request_id(),
            validate_only: dry_run,
        };
        let answer = clients
            .events(service)
            .apply_streams(clients.request(request)?)
            .await;
        let answer = answer.during("ops.v1.EventService/ApplyStreams")?.into_inner();
        // All services declare the same streams, so they report the same differences.
        for difference in answer.differences {
            if !found.contains(&difference) {
                found.push(difference);
            }
        }
    }
    if format == Format::Json {
        let rows: Result<Vec<Value>, Failure> = found.iter().map(output::json).collect();
        output::print_json(&json!({"differences": rows?}))?;
    } else {
        let mut table = Table::new(["OBJECT", "SETTING", "IS", "WANTED"], "all is as wanted");
        for difference in &found {
            table.row([
                difference.object.clone(),
                difference.setting.clone(),
                difference.is.clone(),
                difference.wanted.clone(),
            ]);
        }
        print!("{table}");
    }
    if !dry_run || found.is_empty() {
        return Ok(());
    }
    eprintln!("next: weft events apply");
    Err(Failure::AlreadyReported)
}

async fn audit_services(
    clients: &Clients,
    filter: ServiceFilter,
    window: Window,
) -> Result<Vec<(Service, AuditEventsResponse)>, Failure> {
    let mut found = Vec::new();
    for service in filter.services() {
        let request = AuditEventsRequest {
            window: Some(to_proto_duration(window.since)),
        };
        let answer = clients
            .events(service)
            .audit_events(clients.untracked_request(request)?)
            .await;
        found.push((
            service,
            answer.during("ops.v1.EventService/AuditEvents")?.into_inner(),
        ));
    }
    Ok(found)
}

async fn consumers(clients: &Clients, service: Service) -> Result<ListConsumersResponse, Failure> {
    let request = clients.untracked_request(ListConsumersRequest {})?;
    let answer = clients.events(service).list_consumers(request).await;
    Ok(answer.during("ops.v1.EventService/ListConsumers")?.into_inner())
}

/// Fails if no service has a consumer of this name.
pub(crate) async fn check_consumer(clients: &Clients, consumer: &str) -> Result<(), Failure> {
    find_service(clients, consumer).await.map(drop)
}

async fn find_service(clients: &Clients, consumer: &str) -> Result<Service, Failure> {
    let mut names = Vec::new();
    for service in Service::ALL {
        let found = consumers(clients, service).await?.consumers;
        if found.iter().any(|found| found.name == consumer) {
            return Ok(service);
        }
        names.extend(found.into_iter().map(|found| found.name));
    }
    let suggestion = suggestion::did_you_mean(consumer, names.iter().map(String::as_str));
    Err(Failure::Other(anyhow::anyhow!(
        "there is no consumer `{consumer}`{suggestion}: weft events lag lists them"
    )))
}

fn to_proto_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}
