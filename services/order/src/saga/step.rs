//! The steps that sagas are made of.

/// One call of another service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    PrepareClaim,
    AuthorizePayment,
    CapturePayment,
    SubmitClaim,
    VoidPayment,
    WithdrawClaim,
    /// Lets the payment of the patient's balance go.
    VoidBalance,
    RefundPayment,
    /// Gives back what the patient paid of the balance.
    RefundBalance,
}

/// A step in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    pub step: Step,
    /// It undoes the step.
    pub compensation: bool,
}

impl Step {
    const ALL: [Step; 9] = [
        Step::PrepareClaim,
        Step::AuthorizePayment,
        Step::CapturePayment,
        Step::SubmitClaim,
        Step::VoidPayment,
        Step::WithdrawClaim,
        Step::VoidBalance,
        Step::RefundPayment,
        Step::RefundBalance,
    ];

    /// What undoes it; it must accept to undo what never arrived. `None`: there is nothing to undo.
    pub fn undoing(self) -> Option<Step> {
        match self {
            Step::PrepareClaim => Some(Step::WithdrawClaim),
            Step::AuthorizePayment => Some(Step::VoidPayment),
            Step::CapturePayment
            | Step::SubmitClaim
            | Step::VoidPayment
            | Step::WithdrawClaim
            | Step::VoidBalance
            | Step::RefundPayment
            | Step::RefundBalance => None,
        }
    }

    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Step::PrepareClaim => "prepare_claim",
            Step::AuthorizePayment => "authorize_payment",
            Step::CapturePayment => "capture_payment",
            Step::SubmitClaim => "submit_claim",
            Step::VoidPayment => "void_payment",
            Step::WithdrawClaim => "withdraw_claim",
            Step::VoidBalance => "void_balance",
            Step::RefundPayment => "refund_payment",
            Step::RefundBalance => "refund_balance",
        }
    }

    /// The step of that name.
    pub fn named(name: &str) -> Option<Step> {
        Step::ALL.into_iter().find(|step| step.name() == name)
    }
}
