//! The domain: an order, its price, and its transitions. No I/O, no wire types.

mod account;
mod adjustment;
mod line;
mod remark;
mod state;

pub use account::{Account, Activity, Hold, Remittance};
pub use adjustment::Adjustment;
use chassis::Facility;
pub use line::Line;
use money::{Currency, Money};
pub use remark::{OpenIssue, Remark};
use serde::{Deserialize, Serialize};
pub use state::State;
use time::OffsetDateTime;
use uuid::Uuid;

/// Coded goods or services given to a patient, without the lines. Amounts are minor units of `currency`.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub id: Uuid,
    pub facility: Facility,
    /// The caller's own reference; may be empty.
    pub reference: String,
    pub patient_id: String,
    pub currency: Currency,
    pub price: Price,
    /// The payer that the claim is submitted to; empty for a self-pay order.
    pub payer_id: String,
    /// Captured and fulfilled as soon as it is confirmed.
    pub immediate: bool,
    /// The payment method's token; empty: the order waits for one.
    pub payment_method: String,
    pub state: State,
    pub payment_id: Option<Uuid>,
    pub claim_id: Option<Uuid>,
    pub failure: Option<Failure>,
    /// What operators' interventions left open, oldest first.
    pub remarks: Vec<Remark>,
    pub account: Account,
    pub hold: Hold,
    /// The claim's activities; empty until the first remittance.
    pub activities: Vec<Activity>,
    /// The claim's version in the last claim event that was applied.
    pub claim_version: i64,
    pub refund_count: i32,
    /// The saga that is changing or last changed the order.
    pub saga_id: Uuid,
    /// That saga is running and determines the state: no other may begin.
    pub busy: bool,
    pub version: i64,
    pub expires_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub(crate) changes: Vec<(i64, Change)>,
}

/// The split of the price. `gross` = `patient_share` + `payer_net` + `other_payer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub gross: i64,
    pub patient_share: i64,
    pub payer_net: i64,
    pub other_payer: i64,
}

/// Why an order failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// UPPER_SNAKE.
    pub reason: String,
    pub message: String,
    /// The violated fields or rules: the name and the description.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<(String, String)>,
}

/// A change of an order that is published as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Placed,
    Confirmed,
    Rejected {
        reason: String,
    },
    Expired,
    Fulfilled,
    Cancelled {
        reason: String,
    },
    Returned {
        patient_share: i64,
        payer_net: i64,
        full: bool,
    },
    BalanceDue {
        transferred: i64,
        written_off: i64,
        balance: i64,
        /// Everything billed to the patient beside the share.
        billed: i64,
    },
    Adjusted {
        adjustment: Adjustment,
        billed: i64,
    },
    Settled {
        written_off: i64,
        patient_written_off: i64,
    },
    Reopened {
        outstanding: i64,
    },
}

/// A transition that is not allowed from the order's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the order is {from} and cannot become {to}")]
pub struct WrongState {
    pub from: State,
    pub to: State,
}

/// The inputs of a new order.
#[derive(Clone, Debug)]
pub struct NewOrder {
    pub facility: Facility,
    pub reference: String,
    pub patient_id: String,
    pub currency: Currency,
    pub price: Price,
    pub payer_id: String,
    pub immediate: bool,
    pub payment_method: String,
}

impl Order {
    /// Creates an order; `saga_id` is the saga that drives it.
    pub fn place(new_order: NewOrder, saga_id: Uuid) -> Order {
        let now = OffsetDateTime::now_utc();
        let mut order = Order {
            id: Uuid::now_v7(),
            facility: new_order.facility,
            reference: new_order.reference,
            patient_id: new_order.patient_id,
            currency: new_order.currency,
            price: new_order.price,
            payer_id: new_order.payer_id,
            immediate: new_order.immediate,
            payment_method: new_order.payment_method,
            state: State::Pending,
            payment_id: None,
            claim_id: None,
            failure: None,
            remarks: Vec::new(),
            account: Account::default(),
            hold: Hold::None,
            activities: Vec::new(),
            claim_version: 0,
            refund_count: 0,
            saga_id,
            busy: true,
            version: 0,
            expires_at: None,
            created_at: now,
            updated_at: now,
            changes: Vec::new(),
        };
        order.record(Change::Placed);
        order
    }

    /// Whether it has a claim.
    pub fn is_insured(&self) -> bool {
        !self.payer_id.is_empty()
    }

    /// An amount in the order's currency.
    pub fn money(&self, minor: i64) -> Money {
        Money::new(minor, self.currency)
    }

    /// Whether the saga's request can be answered: the saga has ended, or waits for the patient.
    pub fn is_at_rest(&self) -> bool {
        !self.busy || self.state == State::AwaitingPayment
    }

    /// Records the prepared claim draft.
    pub fn set_claim(&mut self, claim_id: Uuid) {
        self.claim_id = Some(claim_id);
        self.touch();
    }

    /// Records the payment, whose outcome may be unknown.
    pub fn set_payment(&mut self, payment_id: Uuid) {
        if self.payment_id != Some(payment_id) {
            self.payment_id = Some(payment_id);
            self.touch();
        }
    }

    /// Waits for a payment method, which the patient can provide until `expires_at`.
    pub fn await_payment(&mut self, payment_id: Uuid, expires_at: OffsetDateTime) -> Result<(), WrongState> {
        self.payment_id = Some(payment_id);
        if self.state != State::AwaitingPayment {
            self.enter(State::AwaitingPayment)?;
            self.expires_at = Some(expires_at);
            self.touch();
        }
        Ok(())
    }

    /// Whether its payment window is over. Both `now` and the window are by the database's clock.
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Confirms the order: the share is authorized and the claim draft is valid.
    pub fn confirm(&mut self) -> Result<(), WrongState> {
        self.enter(State::Confirmed)?;
        self.expires_at = None;
        self.record(Change::Confirmed);
        Ok(())
    }

    /// Fulfils the order: captured and submitted. Call [`Order::settle`](Order::settle) next: the order is
    /// settled if no amount is open.
    pub fn fulfil(&mut self) -> Result<(), WrongState> {
        self.enter(State::Fulfilled)?;
        self.record(Change::Fulfilled);
        self.return_earlier_refunds();
        Ok(())
    }

    /// Begins the cancellation.
    pub fn begin_cancelling(&mut self, failure: Failure) -> Result<(), WrongState> {
        self.enter(State::Cancelling)?;
        self.expires_at = None;
        self.failure = Some(failure);
        self.touch();
        Ok(())
    }

    /// Records a failure; everything done for the order is being undone. A confirmed order begins its
    /// cancellation.
    pub fn fail(&mut self, failure: Failure) -> Result<(), WrongState> {
        if self.state == State::Confirmed {
            return self.begin_cancelling(failure);
        }
        self.failure = Some(failure);
        self.touch();
        Ok(())
    }

    /// Ends the order after everything done for it is undone.
    pub fn mark_undone(&mut self) -> Result<(), WrongState> {
        let reason = self.failure.clone().unwrap_or_default().reason;
        let (next, change) = match self.state {
            State::AwaitingPayment => (State::Expired, Change::Expired),
            State::Cancelling => (State::Cancelled, Change::Cancelled { reason }),
            _ => (State::Rejected, Change::Rejected { reason }),
        };
        self.enter(next)?;
        self.expires_at = None;
        self.record(change);
        Ok(())
    }

    pub(crate) fn enter(&mut self, next: State) -> Result<(), WrongState> {
        if !self.state.may_become(next) {
            return Err(WrongState {
                from: self.state,
                to: next,
            });
        }
        self.state = next;
        Ok(())
    }

    /// Increments the version for a change that is not published.
    pub(crate) fn touch(&mut self) {
        self.version += 1;
        self.updated_at = OffsetDateTime::now_utc();
    }

    /// Increments the version and records the change for the outbox.
    pub(crate) fn record(&mut self, change: Change) {
        self.touch();
        self.changes.push((self.version, change));
    }
}

impl Failure {
    /// Creates a failure without violations.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure {
            reason: reason.into(),
            message: message.into(),
            violations: Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "order/tests.rs"]
pub(crate) mod tests;
