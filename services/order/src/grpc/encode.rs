//! Encodes orders for the contract.

use std::collections::HashMap;

use money::Decimal;
use proto::{
    google::r#type::{Decimal as WireDecimal, Money as WireMoney},
    order::v1 as wire,
};
use time::OffsetDateTime;

use crate::{
    order::Hold,
    order::{Failure, Line, Order, Remark, State},
    refund::{Refund, RefundState},
};

/// Encodes an order with its lines and refunds.
pub fn order(order: &Order, lines: &[Line], refunds: &[Refund]) -> wire::Order {
    let money = |minor| Some(order.money(minor).into());
    let account = &order.account;
    let capture_mode = if order.immediate {
        wire::CaptureMode::Immediate
    } else {
        wire::CaptureMode::OnFulfilment
    };
    wire::Order {
        id: order.id.to_string(),
        reference: order.reference.clone(),
        patient_id: order.patient_id.clone(),
        lines: order_lines(order, lines, refunds),
        gross: money(order.price.gross),
        patient_share: money(order.price.patient_share),
        payer_net: money(order.price.payer_net),
        other_payer: money(order.price.other_payer),
        capture_mode: capture_mode.into(),
        state: order_state(order.state).into(),
        payment_id: order.payment_id.map(|id| id.to_string()).unwrap_or_default(),
        claim_id: order.claim_id.map(|id| id.to_string()).unwrap_or_default(),
        failure: order.failure.as_ref().map(failure),
        payer_paid: money(account.payer_paid),
        transferred: money(account.transferred),
        written_off: money(account.payer_written_off + account.patient_written_off),
        patient_balance: money(order.patient_balance()),
        patient_credit: money(order.patient_credit()),
        settlement_hold: hold(order.hold).into(),
        refunded: money(account.refunded),
        refunds: refunds.iter().map(|given| refund(order, given)).collect(),
        saga_id: order.saga_id.to_string(),
        version: order.version,
        expire_time: order.expires_at.map(timestamp),
        create_time: Some(timestamp(order.created_at)),
        update_time: Some(timestamp(order.updated_at)),
        remarks: order.remarks.iter().map(remark).collect(),
    }
}

/// Encodes a point in time.
pub fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.nanosecond()).unwrap_or_default();
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos,
    }
}

/// The state of a filter; `None` for the unspecified one.
pub fn order_state_from_wire(state: wire::OrderState) -> Option<State> {
    State::ALL
        .into_iter()
        .find(|candidate| order_state(*candidate) == state)
}

fn order_lines(order: &Order, lines: &[Line], refunds: &[Refund]) -> Vec<wire::OrderLine> {
    let mut returned: HashMap<i32, (Decimal, i64)> = HashMap::new();
    let done = refunds.iter().filter(|refund| refund.state == RefundState::Done);
    for line in done.flat_map(|refund| &refund.lines) {
        let (quantity, amount) = returned.entry(line.number).or_insert((Decimal::ZERO, 0));
        *quantity = quantity.checked_add(line.quantity).unwrap_or(*quantity);
        *amount += line.amount;
    }
    let line = |line: &Line| {
        let (quantity, amount) = returned.get(&line.number).copied().unwrap_or((Decimal::ZERO, 0));
        wire::OrderLine {
            number: line.number,
            code: line.code.clone(),
            description: line.description.clone(),
            quantity: Some(line.quantity.into()),
            amount: Some(order.money(line.amount).into()),
            refunded_quantity: Some(WireDecimal::from(quantity)),
            refunded_amount: Some(order.money(amount).into()),
        }
    };
    lines.iter().map(line).collect()
}

fn refund(order: &Order, refund: &Refund) -> wire::OrderRefund {
    let state = match refund.state {
        RefundState::Pending => wire::OrderRefundState::Pending,
        RefundState::Done => wire::OrderRefundState::Done,
        RefundState::Failed => wire::OrderRefundState::Failed,
    };
    let lines = refund.lines.iter().map(|line| wire::RefundLine {
        number: line.number,
        quantity: Some(line.quantity.into()),
        amount: Some(WireMoney::from(order.money(line.amount))),
    });
    wire::OrderRefund {
        id: refund.id.to_string(),
        amount: Some(order.money(refund.amount()).into()),
        reason: refund.reason.clone(),
        reference: refund.reference.clone(),
        lines: lines.collect(),
        state: state.into(),
        create_time: Some(timestamp(refund.created_at)),
    }
}

fn remark(remark: &Remark) -> wire::OrderRemark {
    wire::OrderRemark {
        reason: remark.reason.clone(),
        message: remark.message.clone(),
        actor: remark.actor.clone(),
        saga_id: remark.saga_id.to_string(),
        create_time: Some(timestamp(remark.at)),
    }
}

fn failure(failure: &Failure) -> wire::OrderFailure {
    let violation = |(field, description): &(String, String)| wire::OrderViolation {
        field: field.clone(),
        description: description.clone(),
    };
    wire::OrderFailure {
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        violations: failure.violations.iter().map(violation).collect(),
    }
}

fn order_state(state: State) -> wire::OrderState {
    match state {
        State::Pending => wire::OrderState::Pending,
        State::AwaitingPayment => wire::OrderState::AwaitingPayment,
        State::Confirmed => wire::OrderState::Confirmed,
        State::Fulfilled => wire::OrderState::Fulfilled,
        State::Settled => wire::OrderState::Settled,
        State::Rejected => wire::OrderState::Rejected,
        State::Expired => wire::OrderState::Expired,
        State::Cancelling => wire::OrderState::Cancelling,
        State::Cancelled => wire::OrderState::Cancelled,
        State::BalanceDue => wire::OrderState::BalanceDue,
        State::Returned => wire::OrderState::Returned,
    }
}

fn hold(hold: Hold) -> wire::SettlementHold {
    match hold {
        Hold::None => wire::SettlementHold::Unspecified,
        Hold::Resubmission => wire::SettlementHold::Resubmission,
        Hold::Review => wire::SettlementHold::Review,
    }
}
