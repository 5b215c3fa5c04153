//! The steps of each kind of saga, and its pivot.

use super::Step;
use crate::{order::Order, refund::Refund};

/// The kinds of sagas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    PlaceOrder,
    FulfilOrder,
    CancelOrder,
    RefundOrder,
}

impl Kind {
    pub const ALL: [Kind; 4] = [
        Kind::PlaceOrder,
        Kind::FulfilOrder,
        Kind::CancelOrder,
        Kind::RefundOrder,
    ];

    /// The steps of a PlaceOrder. With immediate capture they include fulfilment.
    pub fn place(order: &Order) -> Vec<Step> {
        let mut plan = Vec::with_capacity(4);
        plan.extend(order.is_insured().then_some(Step::PrepareClaim));
        plan.extend((order.price.patient_share > 0).then_some(Step::AuthorizePayment));
        if order.immediate {
            plan.extend(Kind::fulfil(order));
        }
        plan
    }

    /// The steps of a FulfilOrder.
    pub fn fulfil(order: &Order) -> Vec<Step> {
        let capture = (order.price.patient_share > 0).then_some(Step::CapturePayment);
        let submit = order.is_insured().then_some(Step::SubmitClaim);
        capture.into_iter().chain(submit).collect()
    }

    /// The steps of a CancelOrder.
    pub fn cancel(order: &Order) -> Vec<Step> {
        let void = (order.price.patient_share > 0).then_some(Step::VoidPayment);
        let withdraw = order.is_insured().then_some(Step::WithdrawClaim);
        void.into_iter().chain(withdraw).collect()
    }

    /// The steps of a RefundOrder. The claim comes first, because only its withdrawal can be refused for a good
    /// reason.
    pub fn refund(order: &Order, refund: &Refund) -> Vec<Step> {
        // A balance to be voided may turn out to be paid; then it is refunded.
        let voids_balance = refund.whole && order.patient_balance() > 0;
        let steps = [
            (refund.whole && order.is_insured(), Step::WithdrawClaim),
            (voids_balance, Step::VoidBalance),
            (refund.share > 0, Step::RefundPayment),
            (refund.balance > 0 || voids_balance, Step::RefundBalance),
        ];
        steps
            .into_iter()
            .filter_map(|(wanted, step)| wanted.then_some(step))
            .collect()
    }

    /// The step after whose success a saga only goes forward. `None`: there is none before the end.
    pub fn pivot(self, plan: &[Step]) -> Option<usize> {
        match self {
            Kind::PlaceOrder | Kind::FulfilOrder => plan
                .iter()
                .position(|step| matches!(step, Step::CapturePayment | Step::SubmitClaim)),
            Kind::RefundOrder => Some(0),
            Kind::CancelOrder => None,
        }
    }

    /// The name as it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Kind::PlaceOrder => "place_order",
            Kind::FulfilOrder => "fulfil_order",
            Kind::CancelOrder => "cancel_order",
            Kind::RefundOrder => "refund_order",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
