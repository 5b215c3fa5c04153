//! The steps of sagas.

/// One call of another service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    PrepareClaim,
    AuthorizePayment,
    CapturePayment,
    SubmitClaim,
    VoidPayment,
    WithdrawClaim,
    /// Voids the payment of the patient's balance.
    VoidBalance,
    RefundPayment,
    /// Refunds what the patient has paid of the balance.
    RefundBalance,
}

/// A step in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    pub step: Step,
    /// It undoes the step.
    pub compensation: bool,
}

/// A service that steps call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Participant {
    Claims,
    Payment,
}

impl Participant {
    pub const ALL: [Participant; 2] = [Participant::Claims, Participant::Payment];

    /// The name in PostgreSQL.
    pub fn name(self) -> &'static str {
        match self {
            Participant::Claims => "claims",
            Participant::Payment => "payment",
        }
    }
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

    /// The step that undoes this one; it must succeed even if this one had no effect. `None`: there is nothing to
    /// undo.
    pub fn undo_step(self) -> Option<Step> {
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

    /// The service that the step and its undoing call. `orders.claim_due_sagas` has the same mapping.
    pub fn participant(self) -> Participant {
        match self {
            Step::PrepareClaim | Step::SubmitClaim | Step::WithdrawClaim => Participant::Claims,
            Step::AuthorizePayment
            | Step::CapturePayment
            | Step::VoidPayment
            | Step::VoidBalance
            | Step::RefundPayment
            | Step::RefundBalance => Participant::Payment,
        }
    }

    /// The name as it is stored and shown.
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

    /// The step with this name.
    pub fn from_name(name: &str) -> Option<Step> {
        Step::ALL.into_iter().find(|step| step.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgresql_maps_every_step_to_the_same_participant() {
        let of_claims = Step::ALL
            .into_iter()
            .filter(|step| step.participant() == Participant::Claims)
            .map(|step| format!("'{}'", step.name()));
        let listed = format!("in ({})", of_claims.collect::<Vec<_>>().join(", "));
        for (migration, times) in [
            (
                include_str!("../../../../migrations/order/0015_saga_turns.sql"),
                1,
            ),
            (
                include_str!("../../../../migrations/order/0016_claim_in_turn.sql"),
                3,
            ),
        ] {
            assert_eq!(migration.matches(&listed).count(), times, "{listed}");
        }
    }
}
