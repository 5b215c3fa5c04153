//! Dead letters in words.

use proto::ops::v1::{DeadLetter, DeadLetterState, GetDeadLetterResponse};
use serde_json::json;

use crate::{
    cli::Format,
    clients::Service,
    failure::Failure,
    output::{self, Table, moment, state},
};

/// One row for each; `empty` is said when there is none.
pub(crate) fn table(letters: &[(Service, DeadLetter)], empty: &'static str) -> Table {
    let heading = [
        "ID",
        "SERVICE",
        "FACILITY",
        "CONSUMER",
        "EVENT",
        "STATE",
        "WHY",
        ">ATTEMPTS",
        ">BEHIND IT",
        "SINCE",
        "MESSAGE",
    ];
    let mut table = Table::new(heading, empty);
    for (service, letter) in letters {
        table.row([
            letter.id.clone(),
            service.name().to_owned(),
            facility(letter),
            letter.consumer.clone(),
            letter.event_type.clone(),
            state(letter.state().as_str_name()),
            format!(
                "{} {}",
                state(letter.error_class().as_str_name()),
                letter.error_code
            ),
            letter.attempts.to_string(),
            letter.parked_count.to_string(),
            moment(letter.create_time.as_ref()),
            letter.error_message.clone(),
        ]);
    }
    table
}

fn facility(letter: &DeadLetter) -> String {
    if letter.facility.is_empty() {
        "(nobody's)".to_owned()
    } else {
        letter.facility.clone()
    }
}

/// One, with its body, causes and history.
pub(crate) fn whole(format: Format, service: Service, answer: &GetDeadLetterResponse) -> Result<(), Failure> {
    if format == Format::Json {
        let mut value = output::json(answer)?;
        value["service"] = json!(service.name());
        return output::print_json(&value);
    }
    let letter = answer.dead_letter.clone().unwrap_or_default();
    let letter_state = letter.state();
    output::print_fields(&[
        ("dead letter", letter.id.clone()),
        ("service", service.name().to_owned()),
        ("facility", facility(&letter)),
        ("consumer", letter.consumer.clone()),
        ("state", state(letter.state().as_str_name())),
        ("event", format!("{} {}", letter.event_type, letter.event_id)),
        (
            "aggregate",
            format!(
                "{} {} version {}",
                letter.aggregate, letter.aggregate_id, letter.aggregate_version
            ),
        ),
        (
            "subject",
            format!(
                "{} ({} #{})",
                letter.subject, letter.stream, letter.stream_sequence
            ),
        ),
        (
            "why",
            format!(
                "{} {}",
                state(letter.error_class().as_str_name()),
                letter.error_code
            ),
        ),
        ("message", letter.error_message.clone()),
        ("attempts", letter.attempts.to_string()),
        ("first failed", moment(letter.first_failure_time.as_ref())),
        ("last failed", moment(letter.last_failure_time.as_ref())),
        ("replayed", letter.replay_count.to_string()),
        ("waiting behind", letter.parked_count.to_string()),
        ("settled", moment(letter.resolve_time.as_ref())),
        ("discarded", letter.discard_reason.clone()),
        (
            "back since",
            super::groups::regression(&letter.resolved_before_version, &letter.handler_version),
        ),
        ("saga", letter.saga_id.clone()),
        ("trace", letter.trace_id.clone()),
        ("undecodable", answer.decode_error.clone()),
    ]);
    for header in &answer.headers {
        println!("header           {}: {}", header.name, header.value);
    }
    for cause in &answer.causes {
        println!(
            "caused by        {} {} at {}",
            cause.event_type,
            cause.event_id,
            moment(cause.occur_time.as_ref())
        );
    }
    for parked in &answer.parked {
        println!(
            "waits behind it  {} {} version {}",
            parked.event_type, parked.event_id, parked.aggregate_version
        );
    }
    for action in &answer.actions {
        let when = moment(action.action_time.as_ref());
        println!(
            "operator         {when} {} by {} {}",
            action.action, action.actor, action.detail
        );
    }
    if let Some(edit) = &answer.edit {
        println!(
            "edit             {} by {}: {}",
            state(edit.state().as_str_name()),
            edit.proposed_by,
            edit.reason
        );
        println!("  it came as     {}", edit.original_body_json);
    }
    let body: serde_json::Value = serde_json::from_str(&answer.body_json).unwrap_or_default();
    if !body.is_null() {
        println!("\n{}", serde_json::to_string_pretty(&body)?);
    }
    if letter_state == DeadLetterState::Open {
        eprintln!("next: weft dlq replay {} --dry-run", letter.id);
    }
    Ok(())
}
