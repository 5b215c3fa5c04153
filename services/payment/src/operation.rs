//! One effect that is wanted of the processor.

use money::Money;
use uuid::Uuid;

use crate::{
    payment::{Payment, Purpose},
    processor::Outcome,
};

/// An effect wanted of the processor. Its id is the key of every call made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub id: Uuid,
    pub payment_id: Uuid,
    pub kind: Kind,
    pub state: State,
    /// What the request started with; itself, unless it follows another operation.
    pub root_id: Uuid,
    /// The authorization that it builds on; its own id for an authorization.
    pub authorization_id: Uuid,
    pub amount: Money,
    pub method: String,
    /// What the processor is told that an authorization is for.
    pub merchant_reference: String,
    /// Why a void or refund is wanted.
    pub reason: String,
    /// Of an authorization: the capture follows by itself.
    pub then_capture: bool,
    /// Of a refund: what the same request is still to give back of other charges, in minor units.
    pub remaining: i64,
    /// The processor's own number of it.
    pub reference: String,
    /// Why the processor refused.
    pub refusal: String,
    pub request_id: Uuid,
    /// How often it was resumed.
    pub attempts: u32,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Authorize,
    Capture,
    Void,
    /// A void because the authorization has lapsed.
    Expire,
    /// A void of an authorization that its payment has no use for any more.
    Release,
    Refund,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// About to be sent, or sent a moment ago.
    Running,
    /// Sent; no answer came.
    Unknown,
    Succeeded,
    Refused,
    /// A void has overtaken it.
    Abandoned,
}

impl Operation {
    /// The authorization of `amount` on the payment's method.
    pub fn authorize(id: Uuid, payment: &Payment, amount: Money, request_id: Uuid) -> Self {
        let method = payment.method.clone();
        let merchant_reference = format!("{}:{}", payment.order_id, payment.purpose.name());
        let base = Self::following(id, Kind::Authorize, payment.id, id, amount);
        Self {
            method,
            merchant_reference,
            request_id,
            ..base
        }
    }

    /// What is done to the authorization `authorization_id`.
    pub fn following(id: Uuid, kind: Kind, payment_id: Uuid, authorization_id: Uuid, amount: Money) -> Self {
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

    /// The operation that follows this one by itself, for the same request. The id of a capture is the one after its
    /// authorization's: whoever resumes the authorization asks for the same capture.
    pub fn next(&self, kind: Kind) -> Self {
        let id = match (self.kind, kind) {
            (Kind::Authorize, Kind::Capture) => Uuid::from_u128(self.id.as_u128().wrapping_add(1)),
            _ => Uuid::now_v7(),
        };
        let next = Self::following(id, kind, self.payment_id, self.authorization_id, self.amount);
        Self {
            root_id: self.root_id,
            request_id: self.request_id,
            ..next
        }
    }

    /// The processor has answered finally.
    pub fn end(&mut self, outcome: &Outcome) {
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

    /// A void has overtaken it.
    pub fn abandon(&mut self) {
        self.state = State::Abandoned;
    }

    /// Whether the processor's final answer is still to come.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }

    /// Whether the request that brought it about is answered only when it has ended. An order asks for the capture of its
    /// share by a request of its own when that is missing; nobody but the patient would for a balance.
    pub fn is_waited_for(&self, purpose: Purpose) -> bool {
        !(self.kind == Kind::Capture && self.follows() && purpose == Purpose::Share)
    }

    /// Whether another operation brought it about.
    pub fn follows(&self) -> bool {
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

    /// As it is stored.
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

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
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

    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Unknown => "UNKNOWN",
            Self::Succeeded => "SUCCEEDED",
            Self::Refused => "REFUSED",
            Self::Abandoned => "ABANDONED",
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}
