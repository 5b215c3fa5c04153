//! The states of an order and the allowed transitions.

use std::fmt;

/// The state of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Accepted; its saga is running.
    Pending,
    /// Waits for a payment method.
    AwaitingPayment,
    /// The share is authorized and the claim draft is valid.
    Confirmed,
    /// Captured and submitted.
    Fulfilled,
    /// Nothing is owed any more.
    Settled,
    /// Declined, or the claim was invalid.
    Rejected,
    /// Not paid in time.
    Expired,
    /// Being cancelled.
    Cancelling,
    /// Cancelled before it was fulfilled.
    Cancelled,
    /// The patient owes what the payer refused.
    BalanceDue,
    /// Returned as a whole after it was fulfilled.
    Returned,
}

impl State {
    /// Every state.
    pub const ALL: [State; 11] = [
        State::Pending,
        State::AwaitingPayment,
        State::Confirmed,
        State::Fulfilled,
        State::Settled,
        State::Rejected,
        State::Expired,
        State::Cancelling,
        State::Cancelled,
        State::BalanceDue,
        State::Returned,
    ];

    /// Whether the transition from this state to `next` is allowed.
    pub fn may_become(self, next: State) -> bool {
        use State::{
            AwaitingPayment, BalanceDue, Cancelled, Cancelling, Confirmed, Expired, Fulfilled, Pending,
            Rejected, Returned, Settled,
        };
        match self {
            Pending => matches!(next, AwaitingPayment | Confirmed | Rejected | Cancelling),
            AwaitingPayment => matches!(next, Confirmed | Expired | Cancelling),
            Confirmed => matches!(next, Fulfilled | Cancelling),
            Cancelling => matches!(next, Cancelled),
            Fulfilled => matches!(next, Settled | BalanceDue | Returned),
            // Fulfilled: the balance is paid while a takeback has reopened the payer's part.
            BalanceDue => matches!(next, Settled | Fulfilled | Returned),
            // A takeback reopens a settled order.
            Settled => matches!(next, Fulfilled | BalanceDue | Returned),
            Rejected | Expired | Cancelled | Returned => false,
        }
    }

    /// Whether the order will not change by itself any more; WatchOrder ends with such a state.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            State::Settled | State::Rejected | State::Expired | State::Cancelled | State::Returned
        )
    }

    /// Whether goods and services were given and the revenue is earned.
    pub fn is_fulfilled(self) -> bool {
        matches!(self, State::Fulfilled | State::BalanceDue | State::Settled)
    }

    /// The error reason when this state does not allow a request.
    pub fn refusal(self) -> &'static str {
        match self {
            State::Pending => "ORDER_PENDING",
            State::AwaitingPayment => "ORDER_AWAITING_PAYMENT",
            State::Confirmed => "ORDER_NOT_FULFILLED",
            State::Fulfilled => "ORDER_FULFILLED",
            State::Settled => "ORDER_SETTLED",
            State::Rejected => "ORDER_REJECTED",
            State::Expired => "ORDER_EXPIRED",
            State::Cancelling => "ORDER_CANCELLING",
            State::Cancelled => "ORDER_CANCELLED",
            State::BalanceDue => "ORDER_BALANCE_DUE",
            State::Returned => "ORDER_RETURNED",
        }
    }

    /// The name as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::AwaitingPayment => "awaiting_payment",
            State::Confirmed => "confirmed",
            State::Fulfilled => "fulfilled",
            State::Settled => "settled",
            State::Rejected => "rejected",
            State::Expired => "expired",
            State::Cancelling => "cancelling",
            State::Cancelled => "cancelled",
            State::BalanceDue => "balance_due",
            State::Returned => "returned",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// As in the contract: `BALANCE_DUE`.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name().to_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    #[test]
    fn exactly_these_transitions_are_allowed() {
        let open = [
            (Pending, vec![AwaitingPayment, Confirmed, Rejected, Cancelling]),
            (AwaitingPayment, vec![Confirmed, Expired, Cancelling]),
            (Confirmed, vec![Fulfilled, Cancelling]),
            (Fulfilled, vec![Settled, BalanceDue, Returned]),
            (Settled, vec![Fulfilled, BalanceDue, Returned]),
            (Rejected, vec![]),
            (Expired, vec![]),
            (Cancelling, vec![Cancelled]),
            (Cancelled, vec![]),
            (BalanceDue, vec![Fulfilled, Settled, Returned]),
            (Returned, vec![]),
        ];
        assert_eq!(open.len(), State::ALL.len());
        for (from, expected) in open {
            let found: Vec<State> = State::ALL.into_iter().filter(|to| from.may_become(*to)).collect();
            let mut expected: Vec<State> = expected;
            expected.sort_by_key(|state| State::ALL.iter().position(|other| other == state));
            assert_eq!(found, expected, "from {from}");
        }
    }

    #[test]
    fn names_round_trip() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
        }
        assert_eq!(State::from_name("PAID"), None);
    }
}
