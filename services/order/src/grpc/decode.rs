//! Decodes requests for the use cases. Rules between fields are checked here, all of them together; rules of
//! single fields are part of the contract and were checked before.

use chassis::{Facility, Violations, status};
use money::{Currency, Decimal, Money};
use proto::{
    claims::v1::ClaimDetails,
    google::r#type::{Decimal as WireDecimal, Money as WireMoney},
    order::v1::{
        BalanceResolution, CaptureMode, ListOrdersRequest, PlaceOrderLine, PlaceOrderRequest,
        RefundOrderRequest, ResolveOrderBalanceRequest,
    },
};
use tonic::Status;
use uuid::Uuid;

use super::encode;
use crate::{
    order::{Line, NewOrder, Order, Price},
    place_order,
    refund::{RequestedLine, Scope},
    refund_order, resolve_order_balance,
    settlement::Resolution,
    store::orders::Filter,
};

/// Decodes a request to place an order. Its lines must have one currency, and its price must add up, including the
/// claim's.
pub(super) fn place_order(
    facility: &Facility,
    request: PlaceOrderRequest,
) -> Result<place_order::Input, Violations> {
    let mut violations = Violations::new();
    let currency = request
        .lines
        .first()
        .and_then(|line| line.amount.as_ref())
        .map(|amount| &amount.currency_code);
    let currency: Option<Currency> = currency.and_then(|code| code.parse().ok());
    let mut read = Reader {
        violations: &mut violations,
        currency,
    };
    let lines: Vec<Line> = request
        .lines
        .iter()
        .enumerate()
        .map(|(index, line)| read.line(index, line))
        .collect();
    // An amount that could not be read is reported by its line; a sum without it means nothing.
    let is_sum_known = read.violations.is_empty();
    let gross = lines
        .iter()
        .try_fold(0_i64, |sum, line| sum.checked_add(line.amount));
    let gross_if_known = gross.filter(|_| is_sum_known);
    let price = read.price(
        gross_if_known,
        request.patient_share.as_ref(),
        request.claim.as_ref(),
    );
    violations.require(
        !is_sum_known || gross.is_some_and(|gross| fits(gross, currency)),
        "lines",
        "must sum to at most 1,000,000,000",
    );
    let capture_mode = request.capture_mode();
    let Some(currency) = currency.filter(|_| violations.is_empty()) else {
        return Err(violations);
    };
    let new_order = NewOrder {
        facility: facility.clone(),
        reference: request.reference,
        patient_id: request.patient_id,
        currency,
        price,
        payer_id: request
            .claim
            .as_ref()
            .map(|claim| claim.payer_id.clone())
            .unwrap_or_default(),
        immediate: capture_mode == CaptureMode::Immediate,
        payment_method: request.payment_method,
    };
    Ok(place_order::Input {
        new_order,
        lines,
        claim: request.claim,
    })
}

/// Whether a sum can be paid: an amount of the contract has at most this many units.
fn fits(minor: i64, currency: Option<Currency>) -> bool {
    const MAX_UNITS: i64 = 1_000_000_000;
    let exponent = currency.map_or(0, Currency::exponent);
    minor <= MAX_UNITS * 10_i64.pow(exponent)
}

/// Decodes a request to refund `order`.
pub(super) fn refund(order: &Order, request: RefundOrderRequest) -> Result<refund_order::Input, Violations> {
    let mut violations = Violations::new();
    let mut read = Reader {
        violations: &mut violations,
        currency: Some(order.currency),
    };
    let scope = match (&request.amount, request.lines.is_empty()) {
        (Some(amount), _) => {
            let amount = read.money("amount", amount);
            // An unreadable amount was reported already; its placeholder is not what the caller sent.
            let is_read = read.violations.is_empty();
            read.violations
                .require(!is_read || amount > 0, "amount", "must be above zero");
            Scope::Amount(amount)
        }
        (None, true) => Scope::Whole,
        (None, false) => Scope::Lines(
            request
                .lines
                .iter()
                .enumerate()
                .map(|(index, line)| RequestedLine {
                    number: line.number,
                    quantity: read.quantity(&format!("lines[{index}].quantity"), line.quantity.as_ref()),
                    amount: line
                        .amount
                        .as_ref()
                        .map(|amount| read.money(&format!("lines[{index}].amount"), amount)),
                })
                .collect(),
        ),
    };
    violations.into_result()?;
    Ok(refund_order::Input {
        order_id: order.id,
        scope,
        reason: request.reason,
        reference: request.reference,
    })
}

/// Decodes a request to resolve a balance.
pub(super) fn resolution(
    request: ResolveOrderBalanceRequest,
) -> Result<resolve_order_balance::Input, Status> {
    let resolution = match request.resolution() {
        BalanceResolution::BillPatient => Resolution::BillPatient,
        BalanceResolution::WriteOff => Resolution::WriteOff,
        BalanceResolution::Unspecified => return Err(status::invalid_field("resolution", "must be given")),
    };
    let amount = request.amount.as_ref().map(Money::try_from).transpose();
    let amount = amount.map_err(|error| status::invalid_field("amount", error.to_string()))?;
    if amount.is_some_and(|amount| !amount.is_positive()) {
        return Err(status::invalid_field("amount", "must be above zero"));
    }
    Ok(resolve_order_balance::Input {
        order_id: super::uuid("id", &request.id)?,
        resolution,
        amount,
        reason: request.reason,
    })
}

/// Decodes the filter of a list.
pub(super) fn order_filter(request: &ListOrdersRequest) -> Filter {
    Filter {
        state: encode::order_state_from_wire(request.state()),
        patient_id: request.patient_id.clone(),
        line_code: request.line_code.clone(),
    }
}

/// An optional id: empty is none.
pub(super) fn optional_uuid(field: &str, text: &str) -> Result<Option<Uuid>, Status> {
    match text {
        "" => Ok(None),
        text => super::uuid(field, text).map(Some),
    }
}

/// Reads values and collects their violations; an unreadable value counts as zero.
struct Reader<'a> {
    violations: &'a mut Violations,
    /// The currency of all amounts; `None` when the first amount has no valid one.
    currency: Option<Currency>,
}

impl Reader<'_> {
    fn line(&mut self, index: usize, line: &PlaceOrderLine) -> Line {
        let amount = match &line.amount {
            Some(amount) => self.money(&format!("lines[{index}].amount"), amount),
            None => {
                self.violations
                    .add(format!("lines[{index}].amount"), "must be set");
                0
            }
        };
        Line {
            number: i32::try_from(index + 1).unwrap_or(i32::MAX),
            code: line.code.clone(),
            description: line.description.clone(),
            quantity: self.quantity(&format!("lines[{index}].quantity"), line.quantity.as_ref()),
            amount,
        }
    }

    fn money(&mut self, field: &str, wire: &WireMoney) -> i64 {
        match Money::try_from(wire) {
            Ok(money) if self.currency.is_some_and(|currency| currency != money.currency()) => {
                self.violations.add(field, "must be in the currency of the order");
                0
            }
            Ok(money) if money.is_negative() => {
                self.violations.add(field, "must not be negative");
                0
            }
            Ok(money) => money.minor(),
            Err(error) => {
                self.violations.add(field, error.to_string());
                0
            }
        }
    }

    fn quantity(&mut self, field: &str, wire: Option<&WireDecimal>) -> Decimal {
        let quantity = wire.map(Decimal::try_from).and_then(Result::ok);
        let quantity = quantity.filter(|quantity| quantity.is_positive());
        if quantity.is_none() {
            self.violations.add(field, "must be a decimal number above zero");
        }
        quantity.unwrap_or(Decimal::ZERO)
    }

    /// Splits the price. Without a claim the patient pays everything; with one, its amounts must be those of the
    /// order.
    fn price(
        &mut self,
        known_gross: Option<i64>,
        share: Option<&WireMoney>,
        claim: Option<&ClaimDetails>,
    ) -> Price {
        let gross = known_gross.unwrap_or_default();
        let before = self.violations.iter().count();
        let given_share = share.map(|share| self.money("patient_share", share));
        let net = claim.map_or(0, |claim| self.part("claim.net", claim.net.as_ref()));
        let patient_share = given_share.unwrap_or(gross.saturating_sub(net));
        let claimed = claim.map(|claim| {
            (
                self.part("claim.gross", claim.gross.as_ref()),
                self.part("claim.patient_share", claim.patient_share.as_ref()),
            )
        });
        // Unreadable amounts were reported already; comparing them would report them again.
        if known_gross.is_some() && self.violations.iter().count() == before {
            self.consistent(gross, patient_share, net, claimed);
        }
        let other_payer = gross.saturating_sub(patient_share).saturating_sub(net);
        Price {
            gross,
            patient_share,
            payer_net: net,
            other_payer,
        }
    }

    fn part(&mut self, field: &str, wire: Option<&WireMoney>) -> i64 {
        match wire {
            Some(wire) => self.money(field, wire),
            None => {
                self.violations.add(field, "must be set");
                0
            }
        }
    }

    fn consistent(&mut self, gross: i64, patient_share: i64, net: i64, claimed: Option<(i64, i64)>) {
        let violations = &mut *self.violations;
        match claimed {
            None => {
                let text = "must be the sum of the lines: without a claim the patient pays it all";
                violations.require(patient_share == gross, "patient_share", text);
            }
            Some((claim_gross, claim_share)) => {
                let in_all = patient_share.checked_add(net);
                let fits = in_all.is_some_and(|sum| sum <= gross) && patient_share >= 0;
                // If the two together are too much, the one that is too much alone is reported.
                if patient_share > gross {
                    violations.add("patient_share", "must not be more than the sum of the lines");
                } else {
                    violations.require(
                        fits,
                        "claim.net",
                        "must not be more than the gross less the patient share",
                    );
                }
                violations.require(
                    claim_gross == gross,
                    "claim.gross",
                    "must be the sum of the lines",
                );
                let text = "must be the patient share of the order";
                violations.require(claim_share == patient_share, "claim.patient_share", text);
            }
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
