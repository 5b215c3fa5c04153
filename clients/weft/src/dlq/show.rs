//! Formats dead letters.

use proto::ops::v1::{DeadLetter, DeadLetterState, GetDeadLetterResponse};
use serde_json::json;

use crate::{
    failure::Failure,
    globals::Format,
    output::{self, Table, short_name, timestamp},
    service::Service,
};

/// One row for each dead letter; `empty` replaces a table without rows.
pub(crate) fn table(dead_letters: &[(Service, DeadLetter)], empty: &'static str) -> Table {
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
    for (service, dead_letter) in dead_letters {
        table.row([
            dead_letter.id.clone(),
            service.name().to_owned(),
            facility(dead_letter),
            dead_letter.consumer.clone(),
            dead_letter.event_type.clone(),
            short_name(dead_letter.state().as_str_name()),
            format!(
                "{} {}",
                short_name(dead_letter.error_class().as_str_name()),
                dead_letter.error_code
            ),
            dead_letter.attempts.to_string(),
            dead_letter.parked_count.to_string(),
            timestamp(dead_letter.create_time.as_ref()),
            dead_letter.error_message.clone(),
        ]);
    }
    table
}

fn facility(dead_letter: &DeadLetter) -> String {
    if dead_letter.facility.is_empty() {
        "(no facility)".to_owned()
    } else {
        dead_letter.facility.clone()
    }
}

/// Prints one dead letter with its body, causes and history.
pub(crate) fn print(format: Format, service: Service, answer: &GetDeadLetterResponse) -> Result<(), Failure> {
    if format == Format::Json {
        let mut value = output::json(answer)?;
        value["service"] = json!(service.name());
        return output::print_json(&value);
    }
    let dead_letter = answer.dead_letter.clone().unwrap_or_default();
    let dead_letter_state = dead_letter.state();
    output::print_fields(&[
        ("dead letter", dead_letter.id.clone()),
        ("service", service.name().to_owned()),
        ("facility", facility(&dead_letter)),
        ("consumer", dead_letter.consumer.clone()),
        ("state", short_name(dead_letter.state().as_str_name())),
        (
            "event",
            format!("{} {}", dead_letter.event_type, dead_letter.event_id),
        ),
        (
            "aggregate",
            format!(
                "{} {} version {}",
                dead_letter.aggregate, dead_letter.aggregate_id, dead_letter.aggregate_version
            ),
        ),
        (
            "subject",
            format!(
                "{} ({} #{})",
                dead_letter.subject, dead_letter.stream, dead_letter.stream_sequence
            ),
        ),
        (
            "why",
            format!(
                "{} {}",
                short_name(dead_letter.error_class().as_str_name()),
                dead_letter.error_code
            ),
        ),
        ("message", dead_letter.error_message.clone()),
        ("attempts", dead_letter.attempts.to_string()),
        ("first failed", timestamp(dead_letter.first_failure_time.as_ref())),
        ("last failed", timestamp(dead_letter.last_failure_time.as_ref())),
        ("replayed", dead_letter.replay_count.to_string()),
        ("waiting behind", dead_letter.parked_count.to_string()),
        ("settled", timestamp(dead_letter.resolve_time.as_ref())),
        ("discarded", dead_letter.discard_reason.clone()),
        (
            "back since",
            super::groups::regression(&dead_letter.resolved_before_version, &dead_letter.handler_version),
        ),
        ("saga", dead_letter.saga_id.clone()),
        ("trace", dead_letter.trace_id.clone()),
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
            timestamp(cause.occur_time.as_ref())
        );
    }
    for parked in &answer.parked {
        println!(
            "waits behind it  {} {} version {}",
            parked.event_type, parked.event_id, parked.aggregate_version
        );
    }
    for action in &answer.actions {
        let when = timestamp(action.action_time.as_ref());
        println!(
            "operator         {when} {} by {} {}",
            action.action, action.actor, action.detail
        );
    }
    if let Some(edit) = &answer.edit {
        println!(
            "edit             {} by {}: {}",
            short_name(edit.state().as_str_name()),
            edit.proposed_by,
            edit.reason
        );
        println!("  it came as     {}", edit.original_body_json);
    }
    let body: serde_json::Value = serde_json::from_str(&answer.body_json).unwrap_or_default();
    if !body.is_null() {
        println!("\n{}", serde_json::to_string_pretty(&body)?);
    }
    if dead_letter_state == DeadLetterState::Open {
        eprintln!("next: weft dlq replay {} --dry-run", dead_letter.id);
    }
    Ok(())
}
