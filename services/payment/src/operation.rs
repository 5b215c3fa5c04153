//! One operation of the card processor on a payment.

use money::Money;
use uuid::Uuid;

use crate::{
    payment::{Payment, Purpose},
    processor::Outcome,
};

/// An operation of the processor. Its id is the idempotency key of every call made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub id: Uuid,
    pub payment_id: Uuid,
    pub kind: Kind,
    pub state: State,
    /// The first operation of the request; its own id, unless it follows another operation.
    pub root_id: Uuid,
    /// The authorization that it works on; its own id for an authorization.
    pub authorization_id: Uuid,
    pub amount: Money,
    pub method: String,
    /// The merchant's reference that an authorization is sent with.
    pub merchant_reference: String,
    /// The reason of a void or refund.
    pub reason: String,
    /// For an authorization: a capture follows when it is approved.
    pub then_capture: bool,
    /// For a refund: the amount that the same request still has to refund from other charges, in minor units.
    pub remaining: i64,
    /// The processor's own reference.
    pub reference: String,
    /// Why the processor refused.
    pub refusal: String,
    pub request_id: Uuid,
    /// How often its lease was acquired again.
    pub attempts: u32,
}

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Authorize,
    Capture,
    Void,
    /// A void of an authorization that has lapsed.
    Expire,
    /// A void of an authorization that its payment no longer needs.
    Release,
    Refund,
}

/// The state of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// About to be sent, or sent and not answered yet.
    Running,
    /// Sent; no answer came in time.
    Unknown,
    Succeeded,
    Refused,
    /// Replaced by a void before its outcome was known.
    Abandoned,
}

impl Operation {
    /// The authorization of `amount` on the payment's method.
    pub fn authorize(id: Uuid, payment: &Payment, amount: Money, request_id: Uuid) -> Self {
        let method = payment.method.clone();
        let merchant_reference = format!("{}:{}", payment.order_id, payment.purpose.name());
        let base = Self::on_authorization(id, Kind::Authorize, payment.id, id, amount);
        Self {
            method,
            merchant_reference,
            request_id,
            ..base
        }
    }

    /// An operation of `kind` on the authorization `authorization_id`.
    pub fn on_authorization(
        id: Uuid,
        kind: Kind,
        payment_id: Uuid,
        authorization_id: Uuid,
        amount: Money,
    ) -> Self {
        Self {
            id,
            payment_id,
            kind,
            state: State::Running,
            root_id: id,
            authorization_id,
            amount,
            method: String::new(),
            merchant_reference: String::new(),
            reason: String::new(),
            then_capture: false,
            remaining: 0,
            reference: String::new(),
            refusal: String::new(),
            request_id: id,
            attempts: 0,
        }
    }

    /// The follow-up operation of the same request. The id of a capture is its authorization's id plus one, so
    /// that every process that resumes the authorization sends the same capture.
    pub fn next(&self, kind: Kind) -> Self {
        let id = match (self.kind, kind) {
            (Kind::Authorize, Kind::Capture) => Uuid::from_u128(self.id.as_u128().wrapping_add(1)),
            _ => Uuid::now_v7(),
        };
        let next = Self::on_authorization(id, kind, self.payment_id, self.authorization_id, self.amount);
        Self {
            root_id: self.root_id,
            request_id: self.request_id,
            ..next
        }
    }

    /// Records the processor's final outcome.
    pub fn complete(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Approved { reference } => {
                self.state = State::Succeeded;
                self.reference.clone_from(reference);
            }
            Outcome::Refused { reason } => {
                self.state = State::Refused;
                self.refusal.clone_from(reason);
            }
        }
    }

    /// Whether the processor's final outcome is not recorded yet.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }

    /// Whether its request is answered only after it has ended. The capture of a share is not awaited: if it is
    /// missing, the order requests it separately. The capture of a balance is awaited, because only the patient
    /// could request it again.
    pub fn is_awaited(&self, purpose: Purpose) -> bool {
        !(self.kind == Kind::Capture && self.is_follow_up() && purpose == Purpose::Share)
    }

    /// Whether it follows another operation.
    pub fn is_follow_up(&self) -> bool {
        self.root_id != self.id
    }
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Authorize,
        Self::Capture,
        Self::Void,
        Self::Expire,
        Self::Release,
        Self::Refund,
    ];

    /// The name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorize => "AUTHORIZE",
            Self::Capture => "CAPTURE",
            Self::Void => "VOID",
            Self::Expire => "EXPIRE",
            Self::Release => "RELEASE",
            Self::Refund => "REFUND",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl State {
    const ALL: [Self; 5] = [
        Self::Running,
        Self::Unknown,
        Self::Succeeded,
        Self::Refused,
        Self::Abandoned,
    ];

    /// The name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Unknown => "UNKNOWN",
            Self::Succeeded => "SUCCEEDED",
            Self::Refused => "REFUSED",
            Self::Abandoned => "ABANDONED",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}
