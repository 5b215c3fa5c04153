//! Encodes the domain's types as the contract's messages.

use proto::payment::v1 as wire;
use time::OffsetDateTime;

use crate::{
    ledger::{Account, Cause},
    payment::{Payment, Purpose, State},
    store::{Refund, RefundState, ledger::EntryRecord},
};

/// A payment with its refunds.
pub fn payment(payment: &Payment, refunds: &[Refund]) -> wire::Payment {
    let amount = |minor| payment.money(minor).map(Into::into);
    let refunds = refunds.iter().filter(|refund| refund.payment_id == payment.id);
    wire::Payment {
        id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        purpose: purpose(payment.purpose).into(),
        state: state(payment.state).into(),
        amount: amount(payment.amount),
        authorized: amount(payment.authorized),
        captured: amount(payment.captured),
        refunded: amount(payment.refunded),
        payment_method: payment.method.clone(),
        processor_reference: payment.processor_reference.clone(),
        decline_reason: payment.decline_reason.clone(),
        refunds: refunds.map(|refund| self::refund(payment, refund)).collect(),
        version: payment.version,
        expire_time: payment.expires_at.map(timestamp),
        create_time: Some(timestamp(payment.created_at)),
        update_time: Some(timestamp(payment.updated_at)),
        // Only the read methods set it.
        capture_pending: false,
    }
}

/// A ledger entry.
pub fn entry(entry: &EntryRecord) -> wire::LedgerEntry {
    wire::LedgerEntry {
        transaction_id: entry.transaction_id.to_string(),
        account: account(entry.account).into(),
        amount: Some(entry.amount.into()),
        cause: cause(entry.cause).into(),
        order_id: entry.order_id.to_string(),
        payment_id: entry.payment_id.map(|id| id.to_string()).unwrap_or_default(),
        causation_id: entry.causation_id.to_string(),
        create_time: Some(timestamp(entry.created_at)),
    }
}

pub fn purpose(purpose: Purpose) -> wire::PaymentPurpose {
    match purpose {
        Purpose::Share => wire::PaymentPurpose::Share,
        Purpose::Balance => wire::PaymentPurpose::Balance,
    }
}

pub fn account(account: Account) -> wire::LedgerAccount {
    match account {
        Account::PatientReceivable => wire::LedgerAccount::PatientReceivable,
        Account::PayerReceivable => wire::LedgerAccount::PayerReceivable,
        Account::Cash => wire::LedgerAccount::Cash,
        Account::PayerCash => wire::LedgerAccount::PayerCash,
        Account::Revenue => wire::LedgerAccount::Revenue,
        Account::BadDebt => wire::LedgerAccount::BadDebt,
        Account::Rounding => wire::LedgerAccount::Rounding,
    }
}

pub(super) fn state(state: State) -> wire::PaymentState {
    match state {
        State::Created => wire::PaymentState::Created,
        State::Authorizing => wire::PaymentState::Authorizing,
        State::Authorized => wire::PaymentState::Authorized,
        State::Captured => wire::PaymentState::Captured,
        State::Declined => wire::PaymentState::Declined,
        State::Voided => wire::PaymentState::Voided,
        State::Expired => wire::PaymentState::Expired,
        State::Unknown => wire::PaymentState::Unknown,
    }
}

fn cause(cause: Cause) -> wire::LedgerCause {
    match cause {
        Cause::OrderFulfilled => wire::LedgerCause::OrderFulfilled,
        Cause::PaymentCaptured => wire::LedgerCause::PaymentCaptured,
        Cause::RemittancePaid => wire::LedgerCause::RemittancePaid,
        Cause::Takeback => wire::LedgerCause::Takeback,
        Cause::DenialTransferred => wire::LedgerCause::DenialTransferred,
        Cause::WriteOff => wire::LedgerCause::WriteOff,
        Cause::Refund => wire::LedgerCause::Refund,
        Cause::OrderReturned => wire::LedgerCause::OrderReturned,
        Cause::TransferReversed => wire::LedgerCause::TransferReversed,
        Cause::WriteOffReversed => wire::LedgerCause::WriteOffReversed,
        Cause::Rounding => wire::LedgerCause::Rounding,
    }
}

fn refund(payment: &Payment, refund: &Refund) -> wire::Refund {
    let state = match refund.state {
        RefundState::Pending => wire::RefundState::Pending,
        RefundState::Succeeded => wire::RefundState::Succeeded,
        RefundState::Failed => wire::RefundState::Failed,
    };
    wire::Refund {
        id: refund.id.to_string(),
        amount: payment.money(refund.amount).map(Into::into),
        reason: refund.reason.clone(),
        state: state.into(),
        create_time: Some(timestamp(refund.created_at)),
    }
}

fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.nanosecond()).unwrap_or(0);
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos,
    }
}
