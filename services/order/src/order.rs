//! The domain: an order, its price, and what may happen to it. No I/O, no wire types.

mod line;
mod remark;
mod state;

use chassis::Facility;
pub use line::Line;
use money::{Currency, Money};
pub use remark::{OpenIssue, Remark};
use serde::{Deserialize, Serialize};
pub use state::State;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::settlement::{Account, Activity, Adjustment, Hold};

/// A basket of coded goods or services given to a patient, without its lines. Amounts are minor units of `currency`.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub id: Uuid,
    pub facility: Facility,
    /// The caller's own number; may be empty.
    pub reference: String,
    pub patient_id: String,
    pub currency: Currency,
    pub price: Price,
    /// Whom the claim goes to; empty for a self-pay order.
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
    /// Where each activity of the claim stands; empty until a remittance has told it.
    pub activities: Vec<Activity>,
    /// The claim's version of the last claim event that took effect.
    pub claim_version: i64,
    pub refund_count: i32,
    /// The saga that works or last worked on it.
    pub saga_id: Uuid,
    /// That saga decides the state and is under way: no other may begin.
    pub busy: bool,
    pub version: i64,
    pub expires_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub(crate) changes: Vec<(i64, Change)>,
}

/// Who pays what. `gross` = `patient_share` + `payer_net` + `other_payer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub gross: i64,
    pub patient_share: i64,
    pub payer_net: i64,
    pub other_payer: i64,
}

/// Why an order does not go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// UPPER_SNAKE.
    pub reason: String,
    pub message: String,
    /// The violated fields or rules: name and what is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<(String, String)>,
}

/// What happened to an order, to be told to others.
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
        /// To the patient in all.
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

/// What was to happen does not fit the order's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the order is {from} and cannot become {to}")]
pub struct WrongState {
    pub from: State,
    pub to: State,
}

/// What a new order is made of.
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
    /// Takes an order down; `saga_id` is the saga that will see it through.
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

    /// Whether a claim belongs to it.
    pub fn is_insured(&self) -> bool {
        !self.payer_id.is_empty()
    }

    /// An amount of this order as money.
    pub fn money(&self, minor: i64) -> Money {
        Money::new(minor, self.currency)
    }

    /// Whether whoever waits for its saga has an answer: it has ended, or waits for the patient.
    pub fn is_at_rest(&self) -> bool {
        !self.busy || self.state == State::AwaitingPayment
    }

    /// The claim draft holds.
    pub fn set_claim(&mut self, claim_id: Uuid) {
        self.claim_id = Some(claim_id);
        self.touch();
    }

    /// There is a payment, and its outcome is open.
    pub fn set_payment(&mut self, payment_id: Uuid) {
        if self.payment_id != Some(payment_id) {
            self.payment_id = Some(payment_id);
            self.touch();
        }
    }

    /// There is a payment without a method: the patient has until `expires_at` to give one.
    pub fn await_payment(&mut self, payment_id: Uuid, expires_at: OffsetDateTime) -> Result<(), WrongState> {
        self.payment_id = Some(payment_id);
        if self.state != State::AwaitingPayment {
            self.enter(State::AwaitingPayment)?;
            self.expires_at = Some(expires_at);
            self.touch();
        }
        Ok(())
    }

    /// Whether its payment window is over. `now` is by the database's clock, as the window is.
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The share is set aside and the claim draft holds.
    pub fn confirm(&mut self) -> Result<(), WrongState> {
        self.enter(State::Confirmed)?;
        self.expires_at = None;
        self.record(Change::Confirmed);
        Ok(())
    }

    /// Captured and filed. Call [`Order::settle`](Order::settle) next: nothing may be open at all.
    pub fn fulfil(&mut self) -> Result<(), WrongState> {
        self.enter(State::Fulfilled)?;
        self.record(Change::Fulfilled);
        self.return_earlier_refunds();
        Ok(())
    }

    /// It is to be given up.
    pub fn begin_cancelling(&mut self, failure: Failure) -> Result<(), WrongState> {
        self.enter(State::Cancelling)?;
        self.expires_at = None;
        self.failure = Some(failure);
        self.touch();
        Ok(())
    }

    /// It cannot go on, and what was done for it is being undone. A confirmed order is given up.
    pub fn fail(&mut self, failure: Failure) -> Result<(), WrongState> {
        if self.state == State::Confirmed {
            return self.begin_cancelling(failure);
        }
        self.failure = Some(failure);
        self.touch();
        Ok(())
    }

    /// All that was done for it is undone.
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

    /// Counts a change that others need not hear of.
    pub(crate) fn touch(&mut self) {
        self.version += 1;
        self.updated_at = OffsetDateTime::now_utc();
    }

    /// Counts a change and keeps it for the outbox.
    pub(crate) fn record(&mut self, change: Change) {
        self.touch();
        self.changes.push((self.version, change));
    }
}

impl Failure {
    /// A failure without violations.
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
