//! `weft dlq edit|approve`: replaces the body of a dead letter and replays it.

use std::{io::Read as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use proto::ops::v1::{
    ApproveDeadLetterEditRequest, DeadLetterEditState, EditDeadLetterRequest, GetDeadLetterResponse,
};
use uuid::Uuid;

use super::{find, replay, show};
use crate::{
    clients::Clients,
    confirm::Confirmation,
    failure::{During as _, Failure},
    globals::{self, Format},
    service::Service,
};

/// How long to wait for the outcome of the replay.
const REPLAY_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The dead letter's id
    #[arg(value_parser = globals::parse_uuid)]
    dead_letter: Uuid,
    /// The new body in Protobuf's JSON, as `weft dlq show` prints it; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// Why, 3 to 500 characters; kept in the audit trail
    #[arg(long)]
    reason: String,
    /// Only tell what the replay would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(crate) async fn run(clients: &Clients, format: Format, arguments: Arguments) -> Result<(), Failure> {
    let id = arguments.dead_letter;
    let body_json = read(&arguments.body)?;
    if arguments.dry_run {
        return replay::dry_run(clients, format, id, body_json).await;
    }
    clients.check_timeout::<EditDeadLetterRequest>()?;
    let (service, _) = find(clients, id).await?;
    arguments
        .confirmation
        .ask("The consumer will handle the new body instead of the original one.")?;
    let request = EditDeadLetterRequest {
        dead_letter_id: id.to_string(),
        request_id: clients.request_id(),
        body_json,
        reason: arguments.reason,
    };
    let answer = clients
        .dead_letters(service)
        .edit_dead_letter(clients.request(request)?)
        .await;
    let answer = answer
        .during("ops.v1.DeadLetterService/EditDeadLetter")?
        .into_inner();
    let edit = answer.edit.unwrap_or_default();
    if edit.state() == DeadLetterEditState::Proposed {
        let (service, found): (Service, GetDeadLetterResponse) = find(clients, id).await?;
        show::print(format, service, &found)?;
        eprintln!("it waits for a second person; next, by somebody else: weft dlq approve {id}");
        return Ok(());
    }
    replay::wait_for_outcome(clients, format, service, id, REPLAY_WAIT).await
}

/// Approves the proposed edit of a dead letter, and waits for the replay.
pub(crate) async fn approve(
    clients: &Clients,
    format: Format,
    id: Uuid,
    confirmation: Confirmation,
) -> Result<(), Failure> {
    clients.check_timeout::<ApproveDeadLetterEditRequest>()?;
    let (service, found) = find(clients, id).await?;
    let edit = found
        .edit
        .filter(|edit| edit.state() == DeadLetterEditState::Proposed)
        .with_context(|| format!("no edit of {id} waits for approval"))?;
    eprintln!("{} proposes, because {}:", edit.proposed_by, edit.reason);
    eprintln!("  it came as {}", edit.original_body_json);
    eprintln!("  it becomes {}", edit.body_json);
    confirmation.ask("The consumer will handle the new body.")?;
    let request = ApproveDeadLetterEditRequest {
        edit_id: edit.id,
        request_id: clients.request_id(),
    };
    let answer = clients
        .dead_letters(service)
        .approve_dead_letter_edit(clients.request(request)?)
        .await;
    answer.during("ops.v1.DeadLetterService/ApproveDeadLetterEdit")?;
    replay::wait_for_outcome(clients, format, service, id, REPLAY_WAIT).await
}

fn read(file: &PathBuf) -> Result<String, Failure> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(text)
}
