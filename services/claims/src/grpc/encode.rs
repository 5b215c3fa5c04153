//! Maps stored claims and parked lines to protobuf messages.

use std::collections::HashMap;

use money::{Currency, Money};
use proto::claims::v1 as wire;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    balance::{self, Balance, Line, Status},
    claim::State,
    grpc::decode::{claimed_activities, minor},
    matching::HoldReason,
    store::{self, Record, parked::ParkedLine, remittances::BookedLine},
};

/// Whether resubmissions include their attachments, which may be large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachments {
    /// Oldest first, up to 512 KiB per claim.
    Included,
    /// All attachments are empty.
    Omitted,
}

/// The largest total size of one claim's attachments in a response. With the claim they stay far below 4 MiB.
const MAX_ATTACHMENT_BYTES: i64 = 512 * 1024;

/// Loads the lines and resubmissions of these claims and encodes the claims in the same order.
pub async fn claims(
    conn: &mut PgConnection,
    records: Vec<Record>,
    attachments: Attachments,
) -> Result<Vec<wire::Claim>, sqlx::Error> {
    let ids: Vec<Uuid> = records.iter().map(|record| record.id).collect();
    let mut lines: HashMap<Uuid, Vec<BookedLine>> = HashMap::new();
    for line in store::remittances::list_lines(conn, &ids).await? {
        lines.entry(line.claim).or_default().push(line);
    }
    let resubmitted: Vec<Uuid> = records
        .iter()
        .filter(|record| record.cycle > 1)
        .map(|record| record.id)
        .collect();
    let mut resubmissions: HashMap<Uuid, Vec<wire::Resubmission>> = HashMap::new();
    let mut left_out: HashMap<Uuid, Vec<i32>> = HashMap::new();
    if !resubmitted.is_empty() {
        let max_bytes = match attachments {
            Attachments::Included => MAX_ATTACHMENT_BYTES,
            Attachments::Omitted => 0,
        };
        for stored in store::list_resubmissions(conn, &resubmitted, max_bytes).await? {
            if stored.is_left_out {
                left_out.entry(stored.claim).or_default().push(stored.cycle);
            }
            let resubmission = wire::Resubmission {
                r#type: stored.kind,
                comment: stored.comment,
                attachment: stored.attachment,
            };
            resubmissions.entry(stored.claim).or_default().push(resubmission);
        }
    }
    let encode = |record: Record| {
        let id = record.id;
        let lines = lines.remove(&id).unwrap_or_default();
        wire::Claim {
            resubmissions: resubmissions.remove(&id).unwrap_or_default(),
            attachments_left_out: left_out.remove(&id).unwrap_or_default(),
            ..claim(record, lines)
        }
    };
    Ok(records.into_iter().map(encode).collect())
}

/// Encodes one claim with its lines and resubmissions.
pub async fn full_claim(conn: &mut PgConnection, record: Record) -> Result<wire::Claim, sqlx::Error> {
    let mut encoded = claims(conn, vec![record], Attachments::Included).await?;
    encoded.pop().ok_or(sqlx::Error::RowNotFound)
}

/// Encodes a claim that was never resubmitted, with these lines.
pub fn claim(record: Record, lines: Vec<BookedLine>) -> wire::Claim {
    let claimed = claimed_activities(&record.details);
    let balance = Balance::new(&claimed, &lines.iter().map(Line::from).collect::<Vec<_>>());
    let net = minor(record.details.net.as_ref());
    wire::Claim {
        id: record.id.to_string(),
        order_id: record.order_id.to_string(),
        state: state(record.state).into(),
        financial_status: status(balance.status).into(),
        paid: Some(aed(balance.paid)),
        taken_back: Some(aed(balance.taken_back)),
        net_paid: Some(aed(balance.net_paid())),
        outstanding: Some(aed(net - balance.net_paid())),
        paid_above_net: Some(aed(balance.surplus)),
        taken_back_above_paid: Some(aed(balance.excess)),
        activities: activities(&balance),
        remittance_lines: lines.into_iter().map(line).collect(),
        cycle: record.cycle,
        id_payer: record.id_payer,
        remitter_id: record.remitter_id,
        rejection: record.rejection,
        resubmissions: Vec::new(),
        attachments_left_out: Vec::new(),
        version: record.version,
        create_time: Some(timestamp(record.created_at)),
        update_time: Some(timestamp(record.updated_at)),
        details: Some(record.details),
    }
}

/// Encodes the balances of the activities.
pub fn activities(balance: &Balance) -> Vec<wire::ActivityBalance> {
    let encode = |activity: &balance::Activity| wire::ActivityBalance {
        activity_id: activity.activity_id.clone(),
        net: Some(aed(activity.net)),
        paid: Some(aed(activity.paid)),
        taken_back: Some(aed(activity.taken_back)),
        paid_above_net: Some(aed(activity.surplus)),
        taken_back_above_paid: Some(aed(activity.excess)),
        denial_code: activity.denial_code.clone(),
        financial_status: status(activity.status).into(),
    };
    balance.activities.iter().map(encode).collect()
}

/// Encodes an amount in fils.
pub fn aed(minor: i64) -> proto::google::r#type::Money {
    Money::new(minor, Currency::AED).into()
}

/// Encodes a state.
pub fn state(state: State) -> wire::ClaimState {
    match state {
        State::Draft => wire::ClaimState::Draft,
        State::Validated => wire::ClaimState::Validated,
        State::Submitted => wire::ClaimState::Submitted,
        State::Accepted => wire::ClaimState::Accepted,
        State::Rejected => wire::ClaimState::Rejected,
        State::Resubmitted => wire::ClaimState::Resubmitted,
        State::Withdrawn => wire::ClaimState::Withdrawn,
    }
}

/// Encodes a financial status.
pub fn status(status: Status) -> wire::FinancialStatus {
    match status {
        Status::Pending => wire::FinancialStatus::Pending,
        Status::PartiallyPaid => wire::FinancialStatus::PartiallyPaid,
        Status::Paid => wire::FinancialStatus::Paid,
        Status::Denied => wire::FinancialStatus::Denied,
        Status::PartiallyTakenBack => wire::FinancialStatus::PartiallyTakenBack,
        Status::TakenBack => wire::FinancialStatus::TakenBack,
    }
}

fn line(line: BookedLine) -> wire::RemittanceLine {
    wire::RemittanceLine {
        activity_id: line.activity_id,
        payment: Some(aed(line.payment)),
        denial_code: line.denial_code,
        payment_reference: line.payment_reference,
        settlement_time: Some(timestamp(line.settled_at)),
        file_name: line.file_name,
    }
}

/// Encodes a parked line.
pub fn parked_line(parked: ParkedLine) -> wire::ParkedLine {
    let reason = HoldReason::ALL
        .into_iter()
        .find(|reason| reason.as_str() == parked.reason);
    wire::ParkedLine {
        id: parked.id,
        reason: reason
            .map_or(wire::ParkedReason::Unspecified, HoldReason::encode)
            .into(),
        provider_id: parked.provider_id,
        claim_id: parked.claim_id,
        id_payer: parked.id_payer,
        sender_id: parked.sender_id,
        line: Some(wire::RemittanceLine {
            activity_id: parked.activity_id,
            payment: Some(aed(parked.payment)),
            denial_code: parked.denial_code,
            payment_reference: parked.payment_reference,
            settlement_time: Some(timestamp(parked.settled_at)),
            file_name: parked.file_name,
        }),
        park_time: Some(timestamp(parked.parked_at)),
    }
}

fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    // The nanoseconds of a second are below 10^9, so they fit into an i32.
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: at.nanosecond().cast_signed(),
    }
}
