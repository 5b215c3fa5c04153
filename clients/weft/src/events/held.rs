//! `weft events held|retry|discard`: messages that the broker refuses.

use clap::Args;
use proto::ops::v1::{
    DiscardHeldMessageRequest, HeldMessage, HeldMessageKind, ListHeldMessagesRequest,
    RetryHeldMessagesRequest,
};
use serde_json::{Value, json};

use super::ServiceFilter;
use crate::{
    clients::Clients,
    confirm::Confirmation,
    failure::{During as _, Failure},
    globals::Format,
    output::{self, Table, timestamp},
    service::Service,
};

/// Which held message, as `weft events held` lists it.
#[derive(Debug, Args)]
pub(crate) struct MessageArg {
    /// Its position
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    position: i64,
    /// The service that holds it
    #[arg(long, value_enum)]
    service: Service,
}

pub(super) async fn list(clients: &Clients, format: Format, filter: ServiceFilter) -> Result<(), Failure> {
    let mut found: Vec<(Service, HeldMessage)> = Vec::new();
    for service in filter.services() {
        let mut after_position = 0;
        loop {
            let request = clients.request(ListHeldMessagesRequest { after_position })?;
            let answer = clients.events(service).list_held_messages(request).await;
            let answer = answer.during("ops.v1.EventService/ListHeldMessages")?;
            let messages = answer.into_inner().messages;
            let Some(last) = messages.last() else { break };
            after_position = last.position;
            found.extend(messages.into_iter().map(|message| (service, message)));
        }
    }
    if format == Format::Json {
        let rows: Result<Vec<Value>, Failure> = found
            .iter()
            .map(|(service, message)| {
                Ok(json!({"service": service.name(), "message": output::json(message)?}))
            })
            .collect();
        return output::print_json(&json!({"heldMessages": rows?}));
    }
    let heading = [
        "SERVICE",
        ">POSITION",
        "WHAT",
        "SUBJECT",
        "WHY",
        ">BYTES",
        ">ATTEMPTS",
        ">BEHIND IT",
        "SINCE",
        "REASON",
    ];
    let mut table = Table::new(heading, "the broker refuses no message of this facility");
    for (service, message) in &found {
        let what = match message.kind() {
            HeldMessageKind::Event => "event",
            HeldMessageKind::DeadLetterCopy => "dead letter's copy",
            HeldMessageKind::Replay => "replay",
            HeldMessageKind::Unspecified => "",
        };
        table.row([
            service.name().to_owned(),
            message.position.to_string(),
            what.to_owned(),
            message.subject.clone(),
            message.code.clone(),
            message.size_bytes.to_string(),
            message.attempts.to_string(),
            waiting_count(message),
            timestamp(message.hold_time.as_ref()),
            message.reason.clone(),
        ]);
    }
    print!("{table}");
    if let Some((service, message)) = found.first() {
        let (service, position) = (service.name(), message.position);
        eprintln!(
            "next: weft events retry   (or weft events discard {position} --service {service} --reason …)"
        );
    }
    Ok(())
}

/// The number of messages that wait behind this one; `1000+` if not all were counted.
fn waiting_count(message: &HeldMessage) -> String {
    let more = if message.waiting_partial { "+" } else { "" };
    format!("{}{more}", message.waiting_count)
}

pub(super) async fn retry(clients: &Clients, format: Format, filter: ServiceFilter) -> Result<(), Failure> {
    let mut retried = Vec::new();
    for service in filter.services() {
        let request = RetryHeldMessagesRequest {
            position: 0,
            request_id: clients.request_id(),
        };
        let answer = clients
            .events(service)
            .retry_held_messages(clients.request(request)?)
            .await;
        let answer = answer
            .during("ops.v1.EventService/RetryHeldMessages")?
            .into_inner();
        retried.push((service, answer.retried_count));
    }
    if format == Format::Json {
        let rows: Vec<Value> = retried
            .iter()
            .map(|(service, count)| json!({"service": service.name(), "retriedCount": count.to_string()}))
            .collect();
        return output::print_json(&json!({"retried": rows}));
    }
    for (service, count) in retried {
        println!("{:<16} {count} messages are tried again", service.name());
    }
    eprintln!("next: weft events held");
    Ok(())
}

pub(super) async fn discard(
    clients: &Clients,
    format: Format,
    message: MessageArg,
    reason: String,
    confirmation: Confirmation,
) -> Result<(), Failure> {
    confirmation.ask("A discarded message is never published, and cannot come back.")?;
    let request = DiscardHeldMessageRequest {
        position: message.position,
        reason,
        request_id: clients.request_id(),
    };
    let answer = clients
        .events(message.service)
        .discard_held_message(clients.request(request)?)
        .await;
    answer.during("ops.v1.EventService/DiscardHeldMessage")?;
    let (service, position) = (message.service.name(), message.position);
    if format == Format::Json {
        let discarded = json!({"service": service, "discardedPosition": position.to_string()});
        return output::print_json(&discarded);
    }
    println!("message {position} of {service} is discarded: it is never published");
    eprintln!("next: weft events held");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_count_is_marked() {
        let message = |waiting_count, waiting_partial| HeldMessage {
            waiting_count,
            waiting_partial,
            ..HeldMessage::default()
        };
        assert_eq!(waiting_count(&message(7, false)), "7");
        assert_eq!(waiting_count(&message(1_000, true)), "1000+");
    }
}
