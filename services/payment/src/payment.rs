//! A payment of an order: its amounts, its state and the transitions between states.

use std::fmt;

use money::{Currency, Money};
use time::OffsetDateTime;
use uuid::Uuid;

/// A payment. There is at most one per order and purpose. The amounts are minor units of `currency`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    pub id: Uuid,
    pub order_id: Uuid,
    pub purpose: Purpose,
    pub state: State,
    /// `None` only in a tombstone.
    pub currency: Option<Currency>,
    pub amount: i64,
    pub authorized: i64,
    pub captured: i64,
    pub refunded: i64,
    pub method: String,
    pub processor_reference: String,
    pub decline_reason: String,
    /// Incremented by one with each change.
    pub version: i64,
    pub expires_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// What a payment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The patient's share of the price.
    Share,
    /// The amount that the payer has denied and the patient owes.
    Balance,
}

/// The state of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Created,
    Authorizing,
    Authorized,
    Captured,
    Declined,
    Voided,
    Expired,
    Unknown,
}

/// Why a payment refuses a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its state does not allow it.
    #[error("the payment is {0}")]
    State(State),
    /// It exists and needs no further authorization.
    #[error("the order has this payment already; it is {0}")]
    Exists(State),
    /// The amount differs from that of the existing payment.
    #[error("the payment is over {expected}, not {given}")]
    Amount { expected: Money, given: Money },
    #[error("the payment is in {expected}, not {given}")]
    Currency { expected: Currency, given: Currency },
    #[error("{requested} is more than the {authorized} that was authorized")]
    BeyondAuthorized { requested: Money, authorized: Money },
    #[error("{requested} is more than the {left} that is left of what was captured")]
    BeyondCaptured { requested: Money, left: Money },
    #[error("the amount is out of range")]
    Overflow,
}

impl Payment {
    /// A payment that waits for a payment method.
    pub fn new(order_id: Uuid, purpose: Purpose, amount: Money) -> Self {
        let tombstone = Self::tombstone(order_id, purpose);
        Self {
            state: State::Created,
            currency: Some(amount.currency()),
            amount: amount.minor(),
            ..tombstone
        }
    }

    /// The record of a payment that was voided before it arrived. It refuses the payment when it arrives.
    pub fn tombstone(order_id: Uuid, purpose: Purpose) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            id: Uuid::now_v7(),
            order_id,
            purpose,
            state: State::Voided,
            currency: None,
            amount: 0,
            authorized: 0,
            captured: 0,
            refunded: 0,
            method: String::new(),
            processor_reference: String::new(),
            decline_reason: String::new(),
            version: 1,
            expires_at: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// An amount of this payment as money; `None` in a tombstone.
    pub fn money(&self, minor: i64) -> Option<Money> {
        self.currency.map(|currency| Money::new(minor, currency))
    }

    /// The amount that is still to be authorized, in minor units.
    pub fn due(&self) -> i64 {
        (self.amount - self.captured).max(0)
    }

    /// The amount that can still be refunded, in minor units.
    pub fn refundable(&self) -> i64 {
        self.captured - self.refunded
    }

    /// Begins the authorization of the amount due, on this payment method, and returns that amount. Fails if it is
    /// not `expected_due`.
    pub fn begin_authorization(
        &mut self,
        method: &str,
        expected_due: Option<Money>,
    ) -> Result<Money, Refusal> {
        match self.state {
            State::Created | State::Declined => {}
            State::Authorized | State::Captured => return Err(Refusal::Exists(self.state)),
            State::Authorizing | State::Unknown | State::Voided | State::Expired => {
                return Err(Refusal::State(self.state));
            }
        }
        let due = self.money(self.due()).ok_or(Refusal::State(self.state))?;
        if let Some(given) = expected_due.filter(|given| *given != due) {
            return Err(Refusal::Amount { expected: due, given });
        }
        method.clone_into(&mut self.method);
        self.decline_reason.clear();
        self.enter(State::Authorizing)?;
        Ok(due)
    }

    /// Records that the processor has authorized `amount` until `expires_at`.
    pub fn authorize(
        &mut self,
        amount: i64,
        reference: &str,
        expires_at: OffsetDateTime,
    ) -> Result<(), Refusal> {
        self.enter(State::Authorized)?;
        self.authorized = self.captured.checked_add(amount).ok_or(Refusal::Overflow)?;
        reference.clone_into(&mut self.processor_reference);
        self.expires_at = Some(expires_at);
        Ok(())
    }

    /// Records that the processor has refused. A balance that was authorized and could not be captured is declined
    /// as well, because only the patient can continue it.
    pub fn decline(&mut self, reason: &str) -> Result<(), Refusal> {
        if self.state == State::Authorized && self.purpose == Purpose::Share {
            return Err(Refusal::State(self.state));
        }
        self.enter(State::Declined)?;
        self.authorized = self.captured;
        self.expires_at = None;
        reason.clone_into(&mut self.decline_reason);
        Ok(())
    }

    /// Records that the processor has not answered.
    pub fn mark_outcome_unknown(&mut self) -> Result<(), Refusal> {
        self.enter(State::Unknown)
    }

    /// The amount of a capture: `requested`, or all that is authorized.
    pub fn amount_to_capture(&self, requested: Option<Money>) -> Result<Money, Refusal> {
        if self.state != State::Authorized {
            return Err(Refusal::State(self.state));
        }
        let left = self
            .money(self.authorized - self.captured)
            .ok_or(Refusal::State(self.state))?;
        let requested = requested.unwrap_or(left);
        same_currency(left, requested)?;
        if requested.minor() > left.minor() {
            return Err(Refusal::BeyondAuthorized {
                requested,
                authorized: left,
            });
        }
        Ok(requested)
    }

    /// Records the capture of `amount`; the rest of the authorization is released. A balance that was raised in
    /// the meantime waits for a payment method again.
    pub fn capture(&mut self, amount: i64) -> Result<(), Refusal> {
        let captured = self.captured.checked_add(amount).ok_or(Refusal::Overflow)?;
        if captured > self.authorized {
            return Err(Refusal::State(self.state));
        }
        self.enter(State::Captured)?;
        self.captured = captured;
        self.expires_at = None;
        if self.purpose == Purpose::Balance && self.due() > 0 {
            self.state = State::Created;
        }
        Ok(())
    }

    /// Records that it was voided before it was captured.
    pub fn void(&mut self) -> Result<(), Refusal> {
        self.enter(State::Voided)?;
        self.authorized = self.captured;
        self.expires_at = None;
        Ok(())
    }

    /// Records that the authorization has lapsed.
    pub fn expire(&mut self) -> Result<(), Refusal> {
        self.enter(State::Expired)?;
        self.authorized = self.captured;
        self.expires_at = None;
        Ok(())
    }

    /// The amount of a refund: `requested`, or all that is left.
    pub fn amount_to_refund(&self, requested: Option<Money>) -> Result<Money, Refusal> {
        let left = self.money(self.refundable()).ok_or(Refusal::State(self.state))?;
        if self.captured == 0 {
            return Err(Refusal::State(self.state));
        }
        let requested = requested.unwrap_or(left);
        same_currency(left, requested)?;
        if left.is_zero() || requested.minor() > left.minor() {
            return Err(Refusal::BeyondCaptured { requested, left });
        }
        Ok(requested)
    }

    /// Records the refund of `amount`.
    pub fn refund(&mut self, amount: i64) -> Result<(), Refusal> {
        if amount > self.refundable() {
            return Err(Refusal::State(self.state));
        }
        self.refunded += amount;
        self.increment_version();
        Ok(())
    }

    /// Increments the version for a change outside of its own fields: a refund was requested, or has failed.
    pub fn increment_version(&mut self) {
        self.version += 1;
    }

    /// Sets the amount due to `balance`, in addition to what was captured before. Events of orders of an earlier
    /// release state the balance like that, because such an order may not know yet what was captured.
    pub fn set_due(&mut self, balance: Money) -> Result<(), Refusal> {
        let billed = self.captured.checked_add(balance.minor());
        self.set_billed(Money::new(billed.ok_or(Refusal::Overflow)?, balance.currency()))
    }

    /// Sets the total amount billed to the patient. A payment that had ended waits for a payment method again if
    /// more is due; an authorization in progress continues, and the rest stays open.
    pub fn set_billed(&mut self, billed: Money) -> Result<(), Refusal> {
        if let Some(expected) = self.currency.filter(|expected| *expected != billed.currency()) {
            return Err(Refusal::Currency {
                expected,
                given: billed.currency(),
            });
        }
        self.currency = Some(billed.currency());
        self.amount = billed.minor();
        self.version += 1;
        self.state = match self.state {
            State::Authorizing | State::Unknown | State::Authorized => self.state,
            State::Created | State::Declined | State::Captured | State::Voided | State::Expired => {
                match (self.due() > 0, self.captured > 0) {
                    (true, _) => State::Created,
                    (false, true) => State::Captured,
                    (false, false) => self.state,
                }
            }
        };
        Ok(())
    }

    fn enter(&mut self, next: State) -> Result<(), Refusal> {
        if !self.state.may_become(next) {
            return Err(Refusal::State(self.state));
        }
        self.state = next;
        self.version += 1;
        Ok(())
    }
}

impl State {
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Authorizing,
        Self::Authorized,
        Self::Captured,
        Self::Declined,
        Self::Voided,
        Self::Expired,
        Self::Unknown,
    ];

    /// Whether a request, the processor or the expiry can change the state to `next`. The only other transitions
    /// are those of a balance that is raised: see [`Payment::set_billed`].
    pub fn may_become(self, next: Self) -> bool {
        use State::{Authorized, Authorizing, Captured, Created, Declined, Expired, Unknown, Voided};
        match self {
            Created => matches!(next, Authorizing | Voided),
            Authorizing => matches!(next, Authorized | Declined | Unknown | Voided),
            Unknown => matches!(next, Authorized | Declined | Voided),
            Authorized => matches!(next, Captured | Voided | Expired | Declined),
            Declined => matches!(next, Authorizing | Voided),
            Captured | Voided | Expired => false,
        }
    }

    /// The name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Authorizing => "AUTHORIZING",
            Self::Authorized => "AUTHORIZED",
            Self::Captured => "CAPTURED",
            Self::Declined => "DECLINED",
            Self::Voided => "VOIDED",
            Self::Expired => "EXPIRED",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl Purpose {
    /// The name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Share => "SHARE",
            Self::Balance => "BALANCE",
        }
    }

    /// The purpose with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Share, Self::Balance]
            .into_iter()
            .find(|purpose| purpose.name() == name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn same_currency(expected: Money, given: Money) -> Result<(), Refusal> {
    if expected.currency() == given.currency() {
        return Ok(());
    }
    Err(Refusal::Currency {
        expected: expected.currency(),
        given: given.currency(),
    })
}

#[cfg(test)]
#[path = "payment/tests.rs"]
mod tests;
