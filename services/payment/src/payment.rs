//! A payment: what is to be paid for an order, and how far that has come.

use std::fmt;

use money::{Currency, Money};
use time::OffsetDateTime;
use uuid::Uuid;

/// One payment; there is at most one per order and purpose. The amounts are minor units of `currency`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    pub id: Uuid,
    pub order_id: Uuid,
    pub purpose: Purpose,
    pub state: State,
    /// Absent only in a tombstone.
    pub currency: Option<Currency>,
    pub amount: i64,
    pub authorized: i64,
    pub captured: i64,
    pub refunded: i64,
    pub method: String,
    pub processor_reference: String,
    pub decline_reason: String,
    /// Grows by one with each change.
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
    /// What the payer refused and the patient owes.
    Balance,
}

/// Where a payment stands.
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

/// Why a payment does not do what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its state does not allow it.
    #[error("the payment is {0}")]
    State(State),
    /// It exists and needs no further authorization.
    #[error("the order has this payment already; it is {0}")]
    Exists(State),
    /// The amount is another than that of the payment that exists.
    #[error("the payment is over {expected}, not {given}")]
    Amount { expected: Money, given: Money },
    #[error("the payment is in {expected}, not {given}")]
    Currency { expected: Currency, given: Currency },
    #[error("{asked} is more than the {authorized} that was authorized")]
    BeyondAuthorized { asked: Money, authorized: Money },
    #[error("{asked} is more than the {left} that is left of what was captured")]
    BeyondCaptured { asked: Money, left: Money },
    #[error("the amount is beyond what can be counted")]
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

    /// What is left of a payment that was voided before it arrived, and refuses it when it does.
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

    /// What is still to be authorized.
    pub fn due(&self) -> i64 {
        (self.amount - self.captured).max(0)
    }

    /// What can still be given back.
    pub fn refundable(&self) -> i64 {
        self.captured - self.refunded
    }

    /// The processor is about to be asked for what is due, on this method. `asked` is what the caller thinks is due.
    pub fn authorizing(&mut self, method: &str, asked: Option<Money>) -> Result<Money, Refusal> {
        match self.state {
            State::Created | State::Declined => {}
            State::Authorized | State::Captured => return Err(Refusal::Exists(self.state)),
            State::Authorizing | State::Unknown | State::Voided | State::Expired => {
                return Err(Refusal::State(self.state));
            }
        }
        let due = self.money(self.due()).ok_or(Refusal::State(self.state))?;
        if let Some(given) = asked.filter(|given| *given != due) {
            return Err(Refusal::Amount { expected: due, given });
        }
        method.clone_into(&mut self.method);
        self.decline_reason.clear();
        self.enter(State::Authorizing)?;
        Ok(due)
    }

    /// The processor has set `amount` aside until `expires_at`.
    pub fn authorized(
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

    /// The processor has refused. A balance that was authorized and could not be captured is declined, too: nobody
    /// but the patient can bring it on.
    pub fn declined(&mut self, reason: &str) -> Result<(), Refusal> {
        if self.state == State::Authorized && self.purpose == Purpose::Share {
            return Err(Refusal::State(self.state));
        }
        self.enter(State::Declined)?;
        self.authorized = self.captured;
        self.expires_at = None;
        reason.clone_into(&mut self.decline_reason);
        Ok(())
    }

    /// The processor has not answered.
    pub fn outcome_unknown(&mut self) -> Result<(), Refusal> {
        self.enter(State::Unknown)
    }

    /// How much a capture takes: `asked`, or all that is authorized.
    pub fn capturable(&self, asked: Option<Money>) -> Result<Money, Refusal> {
        if self.state != State::Authorized {
            return Err(Refusal::State(self.state));
        }
        let left = self
            .money(self.authorized - self.captured)
            .ok_or(Refusal::State(self.state))?;
        let asked = asked.unwrap_or(left);
        same_currency(left, asked)?;
        if asked.minor() > left.minor() {
            return Err(Refusal::BeyondAuthorized {
                asked,
                authorized: left,
            });
        }
        Ok(asked)
    }

    /// `amount` was taken; the rest of the authorization is released. A balance that was raised meanwhile waits for
    /// a payment method again.
    pub fn captured(&mut self, amount: i64) -> Result<(), Refusal> {
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

    /// It was let go before it was captured.
    pub fn voided(&mut self) -> Result<(), Refusal> {
        self.enter(State::Voided)?;
        self.authorized = self.captured;
        self.expires_at = None;
        Ok(())
    }

    /// The authorization has lapsed.
    pub fn expired(&mut self) -> Result<(), Refusal> {
        self.enter(State::Expired)?;
        self.authorized = self.captured;
        self.expires_at = None;
        Ok(())
    }

    /// How much a refund gives back: `asked`, or all that is left.
    pub fn refundable_amount(&self, asked: Option<Money>) -> Result<Money, Refusal> {
        let left = self.money(self.refundable()).ok_or(Refusal::State(self.state))?;
        if self.captured == 0 {
            return Err(Refusal::State(self.state));
        }
        let asked = asked.unwrap_or(left);
        same_currency(left, asked)?;
        if left.is_zero() || asked.minor() > left.minor() {
            return Err(Refusal::BeyondCaptured { asked, left });
        }
        Ok(asked)
    }

    /// `amount` was given back.
    pub fn refunded(&mut self, amount: i64) -> Result<(), Refusal> {
        if amount > self.refundable() {
            return Err(Refusal::State(self.state));
        }
        self.refunded += amount;
        self.touch();
        Ok(())
    }

    /// Something about it has changed that is not in its own fields: a refund was asked for, or failed.
    pub fn touch(&mut self) {
        self.version += 1;
    }

    /// The patient owes `balance` now, beside what was captured before: how orders of an earlier release tell it, who
    /// may not know yet what was captured.
    pub fn owes(&mut self, balance: Money) -> Result<(), Refusal> {
        let billed = self.captured.checked_add(balance.minor());
        self.bills(Money::new(billed.ok_or(Refusal::Overflow)?, balance.currency()))
    }

    /// So much was billed to the patient in all. What had ended waits for a payment method again when more of it is due;
    /// an attempt under way goes on, and leaves the rest open.
    pub fn bills(&mut self, billed: Money) -> Result<(), Refusal> {
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

    /// The transitions that a caller, the processor or time can bring about. A balance that is raised is the one
    /// exception: see [`Payment::owes`].
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

    /// As it is stored.
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

    /// The state of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl Purpose {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Share => "SHARE",
            Self::Balance => "BALANCE",
        }
    }

    /// The purpose of that name.
    pub fn named(name: &str) -> Option<Self> {
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
