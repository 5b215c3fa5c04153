//! `weft dlq …`: dead letters of all services. Every service stores those of its own consumers.

mod edit;
mod groups;
mod replay;
mod show;

use clap::{Args, Subcommand};
use proto::ops::v1::{
    DeadLetter, DeadLetterState, DiscardDeadLetterRequest, GetDeadLetterRequest, GetDeadLetterResponse,
    ListDeadLettersRequest,
};
use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;

use crate::{
    clients::Clients,
    confirm::Confirmation,
    enum_value::EnumValue,
    events,
    failure::{CallFailure, During as _, Failure},
    globals::{self, Format, Globals},
    open_work, output,
    paging::{self, Limit},
    service::Service,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List dead letters, newest first; an administrator's list also holds those that name no facility
    List(ListArguments),
    /// Show a dead letter whole, with its decoded body
    Show {
        /// The dead letter's id
        #[arg(value_parser = globals::parse_uuid)]
        dead_letter: Uuid,
    },
    /// Count the open dead letters by kind of failure, largest first
    Groups {
        #[command(flatten)]
        limit: Limit,
    },
    /// Send a dead letter, or a group of them, to the consumer that failed, and wait for what becomes of it
    Replay(replay::Arguments),
    /// Give a dead letter another body and replay it
    Edit(edit::Arguments),
    /// Approve the edit of a dead letter that another person proposed
    Approve {
        /// The dead letter's id
        #[arg(value_parser = globals::parse_uuid)]
        dead_letter: Uuid,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Give a dead letter up for good; what waits behind it goes on without it
    Discard {
        /// The dead letter's id
        #[arg(value_parser = globals::parse_uuid)]
        dead_letter: Uuid,
        /// Why it may be given up, 3 to 500 characters; kept in the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only those of this service; by default of all
    #[arg(long, value_enum)]
    service: Option<Service>,
    /// Only those in this state; by default open and replaying ones
    #[arg(long, value_parser = EnumValue::new(DeadLetterState::as_str_name))]
    state: Option<DeadLetterState>,
    /// Only those of this consumer
    #[arg(long)]
    consumer: Option<String>,
    /// Only those with this fingerprint
    #[arg(long)]
    fingerprint: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

impl ListArguments {
    /// The text for a list without rows.
    fn no_rows(&self) -> &'static str {
        let filtered = self.service.is_some() || self.consumer.is_some() || self.fingerprint.is_some();
        match (filtered, self.state) {
            (false, None) => "no dead letters are open",
            (true, None) => "no open dead letters match",
            (_, Some(_)) => "no dead letters match",
        }
    }
}

const GET_METHOD: &str = "ops.v1.DeadLetterService/GetDeadLetter";

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    match command {
        Command::List(arguments) => list(&clients, globals.output, arguments).await,
        Command::Show { dead_letter } => {
            clients.check_timeout::<GetDeadLetterRequest>()?;
            let (service, answer) = find(&clients, dead_letter).await?;
            show::print(globals.output, service, &answer)
        }
        Command::Groups { limit } => groups::list(&clients, globals.output, limit).await,
        Command::Replay(arguments) => replay::run(&clients, globals.output, arguments).await,
        Command::Edit(arguments) => edit::run(&clients, globals.output, arguments).await,
        Command::Approve {
            dead_letter,
            confirmation,
        } => edit::approve(&clients, globals.output, dead_letter, confirmation).await,
        Command::Discard {
            dead_letter,
            reason,
            confirmation,
        } => {
            clients.check_timeout::<DiscardDeadLetterRequest>()?;
            let (service, _) = find(&clients, dead_letter).await?;
            confirmation.ask("A discarded dead letter never takes effect, and cannot come back.")?;
            let request = DiscardDeadLetterRequest {
                dead_letter_id: dead_letter.to_string(),
                request_id: clients.request_id(),
                reason,
            };
            let answer = clients
                .dead_letters(service)
                .discard_dead_letter(clients.request(request)?)
                .await;
            answer.during("ops.v1.DeadLetterService/DiscardDeadLetter")?;
            let (service, answer) = find(&clients, dead_letter).await?;
            show::print(globals.output, service, &answer)
        }
    }
}

async fn list(clients: &Clients, format: Format, arguments: ListArguments) -> Result<(), Failure> {
    let services = arguments
        .service
        .map_or(Service::ALL.to_vec(), |service| vec![service]);
    let mut found: Vec<(Service, DeadLetter)> = Vec::new();
    let mut unavailable = Vec::new();
    let mut more = false;
    for service in services {
        match list_one(clients, service, &arguments).await {
            Ok(listed) => {
                more |= !listed.next_page_token.is_empty();
                found.extend(listed.rows.into_iter().map(|dead_letter| (service, dead_letter)));
            }
            Err(Failure::Call(call)) if call.status.code() == Code::Unimplemented => {}
            // The other services' dead letters are shown while one service is down.
            Err(Failure::Call(call)) if call.status.code() == Code::Unavailable => {
                unavailable.push((service, call));
            }
            Err(failure) => return Err(failure),
        }
    }
    found.sort_by_key(|(_, dead_letter)| {
        std::cmp::Reverse(dead_letter.create_time.map(|at| (at.seconds, at.nanos)))
    });
    arguments.limit.truncate(&mut found, more);
    if let (Some(consumer), true, true) = (&arguments.consumer, found.is_empty(), unavailable.is_empty()) {
        events::check_consumer(clients, consumer).await?;
    }
    match format {
        Format::Json => {
            let rows: Result<Vec<Value>, Failure> = found
                .iter()
                .map(|(service, dead_letter)| {
                    Ok(json!({"service": service.name(), "deadLetter": output::json(dead_letter)?}))
                })
                .collect();
            output::print_json(&json!({"deadLetters": rows?}))?;
        }
        Format::Table => {
            print!("{}", show::table(&found, arguments.no_rows()));
            if let Some((_, dead_letter)) = found.first() {
                eprintln!("next: weft dlq show {}", dead_letter.id);
            }
            // A saga may be stuck because its event is a dead letter.
            if let Some(stuck @ 1..) = open_work::count_stuck_sagas(clients).await {
                eprintln!("beside them: {stuck} stuck sagas, weft saga list --stuck");
            }
        }
    }
    match unavailable.pop() {
        None => Ok(()),
        Some((service, call)) => {
            eprintln!("the dead letters of {} cannot be listed:", service.name());
            Err(Failure::Call(call))
        }
    }
}

async fn list_one(
    clients: &Clients,
    service: Service,
    arguments: &ListArguments,
) -> Result<paging::Listing<DeadLetter>, Failure> {
    paging::collect(arguments.limit, async |page_size, page_token| {
        let request = ListDeadLettersRequest {
            page_size,
            page_token,
            state: arguments.state.unwrap_or_default().into(),
            consumer: arguments.consumer.clone().unwrap_or_default(),
            fingerprint: arguments.fingerprint.clone().unwrap_or_default(),
        };
        let answer = clients
            .dead_letters(service)
            .list_dead_letters(clients.request(request)?)
            .await;
        let page = answer
            .during("ops.v1.DeadLetterService/ListDeadLetters")?
            .into_inner();
        Ok((page.dead_letters, page.next_page_token))
    })
    .await
}

/// Asks one service after the other, because an id does not show which service has the dead letter.
async fn find(clients: &Clients, id: Uuid) -> Result<(Service, GetDeadLetterResponse), Failure> {
    let mut last: Option<Box<CallFailure>> = None;
    for service in Service::ALL {
        let request = GetDeadLetterRequest {
            dead_letter_id: id.to_string(),
        };
        let answer = clients
            .dead_letters(service)
            .get_dead_letter(clients.untracked_request(request)?)
            .await;
        match answer.during(GET_METHOD) {
            Ok(answer) => return Ok((service, answer.into_inner())),
            Err(Failure::Call(call)) if call.status.code() == Code::Unimplemented => {}
            // An unavailable service may have it, so its error is reported before a NOT_FOUND.
            Err(Failure::Call(call)) if call.status.code() == Code::NotFound => last = last.or(Some(call)),
            Err(Failure::Call(call)) if call.status.code() == Code::Unavailable => last = Some(call),
            Err(failure) => return Err(failure),
        }
    }
    Err(last.map_or_else(
        || Failure::Usage("no service offers dead letters".to_owned()),
        Failure::Call,
    ))
}
