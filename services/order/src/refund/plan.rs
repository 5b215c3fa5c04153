//! Plans how much is refunded from which payment.

use chassis::Violations;
use money::Decimal;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{PlanError, Refund, RefundState, RequestedLine, ReturnedLine, Scope};
use crate::order::{Line, Order};

/// Plans the refund of `wanted` for an order with these lines and earlier refunds, or returns why it is refused.
/// The order must be locked: a planned refund is reserved once it is stored.
pub fn plan(order: &Order, lines: &[Line], earlier: &[Refund], wanted: &Scope) -> Result<Refund, PlanError> {
    if !order.state.is_fulfilled() {
        let text = format!("an order that is {} cannot be refunded", order.state);
        return Err(PlanError::Precondition(order.state.refusal(), text));
    }
    let counted = || {
        earlier
            .iter()
            .filter(|refund| refund.state != RefundState::Failed)
    };
    if counted().any(|refund| refund.whole) {
        return Err(nothing_left());
    }
    let share = order.price.patient_share - counted().map(|refund| refund.share).sum::<i64>();
    let balance = order.account.balance_paid - counted().map(|refund| refund.balance).sum::<i64>();
    let balance = balance.max(0);
    let left = Remaining {
        share,
        balance,
        credit: unreserved_credit(order, earlier).min(balance),
    };
    match wanted {
        Scope::Whole => whole(order, left),
        Scope::Amount(amount) => part(left, *amount, Vec::new()),
        Scope::Lines(_) if order.is_insured() => Err(PlanError::Precondition(
            "ORDER_INSURED",
            "lines of an insured order cannot be returned: give an amount, or return all of it".to_owned(),
        )),
        Scope::Lines(wanted) => {
            let returned = returned(lines, &counted().collect::<Vec<_>>(), wanted)?;
            part(left, returned.iter().map(|line| line.amount).sum(), returned)
        }
    }
}

/// The patient's overpayment that no pending refund gives back.
pub fn unreserved_credit(order: &Order, refunds: &[Refund]) -> i64 {
    let pending = refunds
        .iter()
        .filter(|refund| refund.state == RefundState::Pending);
    let planned: i64 = pending
        .map(|refund| refund.credit.unwrap_or(refund.balance))
        .sum();
    (order.patient_credit() - planned).max(0)
}

/// The patient's money that can still be refunded.
#[derive(Clone, Copy)]
struct Remaining {
    share: i64,
    balance: i64,
    /// The overpaid part of `balance`; it is refunded first.
    credit: i64,
}

fn whole(order: &Order, left: Remaining) -> Result<Refund, PlanError> {
    if order.account.payer_paid != 0 {
        let text = "the payer has paid on the claim, so it cannot be withdrawn; refund an amount instead";
        return Err(PlanError::Precondition("CLAIM_PAID", text.to_owned()));
    }
    if !order.is_insured() && left.share + left.balance == 0 {
        return Err(nothing_left());
    }
    Ok(Refund {
        whole: true,
        ..refund(left.share, left.balance, left.credit)
    })
}

fn part(left: Remaining, amount: i64, lines: Vec<ReturnedLine>) -> Result<Refund, PlanError> {
    if amount == 0 {
        return Err(nothing_left());
    }
    if amount > left.share + left.balance {
        return Err(PlanError::Precondition(
            "REFUND_EXCEEDS_ORDER",
            "the amount exceeds what is left of the patient's money".to_owned(),
        ));
    }
    let share = (amount - left.credit.min(amount)).min(left.share);
    Ok(Refund {
        lines,
        ..refund(share, amount - share, left.credit.min(amount))
    })
}

fn returned(
    lines: &[Line],
    earlier: &[&Refund],
    wanted: &[RequestedLine],
) -> Result<Vec<ReturnedLine>, PlanError> {
    let mut violations = Violations::new();
    let mut returned = Vec::with_capacity(wanted.len());
    for (index, wanted_line) in wanted.iter().enumerate() {
        let line = lines.iter().find(|line| line.number == wanted_line.number);
        let twice = wanted[..index]
            .iter()
            .any(|other| other.number == wanted_line.number);
        violations.require(
            line.is_some(),
            format!("lines[{index}].number"),
            "must be a line of the order",
        );
        violations.require(
            !twice,
            format!("lines[{index}].number"),
            "must not be named twice",
        );
        violations.require(
            wanted_line.quantity.is_positive(),
            format!("lines[{index}].quantity"),
            "must be above zero",
        );
        if let Some(line) = line {
            returned.push((line, wanted_line));
        }
    }
    if !violations.is_empty() {
        return Err(PlanError::Invalid(violations));
    }
    returned
        .into_iter()
        .map(|(line, wanted)| price(line, earlier, wanted))
        .collect()
}

/// Without an explicit amount, a line's amount is the price of everything returned of it so far, less what was
/// refunded for it before: so the parts of a line always sum to its price.
fn price(line: &Line, earlier: &[&Refund], wanted: &RequestedLine) -> Result<ReturnedLine, PlanError> {
    let exceeds = |what: &str| {
        let text = format!("line {}: the {what} is more than what is left of it", line.number);
        PlanError::Precondition("REFUND_EXCEEDS_LINE", text)
    };
    let before = || {
        earlier
            .iter()
            .flat_map(|refund| &refund.lines)
            .filter(|other| other.number == line.number)
    };
    let amount_before: i64 = before().map(|other| other.amount).sum();
    let quantity = before().try_fold(wanted.quantity, |sum, other| sum.checked_add(other.quantity));
    let quantity = quantity
        .filter(|sum| *sum <= line.quantity)
        .ok_or_else(|| exceeds("quantity"))?;
    let left = line.amount - amount_before;
    let amount = match wanted.amount {
        Some(amount) if amount > left => return Err(exceeds("amount")),
        Some(amount) => amount,
        None => {
            let worth =
                Decimal::share_of(quantity, line.quantity, line.amount).ok_or_else(|| exceeds("quantity"))?;
            (worth - amount_before).clamp(0, left)
        }
    };
    Ok(ReturnedLine {
        number: line.number,
        quantity: wanted.quantity,
        amount,
    })
}

fn refund(share: i64, balance: i64, credit: i64) -> Refund {
    Refund {
        id: Uuid::now_v7(),
        reference: String::new(),
        reason: String::new(),
        share,
        balance,
        credit: Some(credit),
        whole: false,
        lines: Vec::new(),
        state: RefundState::Pending,
        created_at: OffsetDateTime::now_utc(),
    }
}

fn nothing_left() -> PlanError {
    PlanError::Precondition("NOTHING_TO_REFUND", "nothing is left to refund".to_owned())
}
