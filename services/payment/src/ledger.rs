//! The double-entry ledger: which accounts each cause moves money between. Nothing booked is ever changed.

use money::{Currency, Money};
use uuid::Uuid;

/// An account of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Account {
    PatientReceivable,
    PayerReceivable,
    Cash,
    PayerCash,
    Revenue,
    BadDebt,
    Rounding,
}

/// Why something is booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    OrderFulfilled,
    PaymentCaptured,
    RemittancePaid,
    Takeback,
    DenialTransferred,
    WriteOff,
    Refund,
    OrderReturned,
    TransferReversed,
    WriteOffReversed,
    Rounding,
}

/// What a transaction belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub order_id: Uuid,
    pub payment_id: Option<Uuid>,
    /// The event or request that caused it.
    pub causation_id: Uuid,
    /// The event or processor operation that it books; with the cause it is booked once.
    pub source_id: Uuid,
}

/// A ledger transaction. By construction its entries sum to zero in each currency, and none is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub id: Uuid,
    pub cause: Cause,
    pub origin: Origin,
    entries: Vec<Entry>,
}

/// One side of a transaction: a debit when `amount` is positive, a credit when negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub account: Account,
    pub amount: i64,
    pub currency: Currency,
}

/// An amount that cannot be booked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be booked")]
pub struct Unbookable(Money);

impl Transaction {
    /// Revenue earned: the patient owes the share and the payer the net.
    pub fn order_fulfilled(origin: Origin, share: Money, net: Money) -> Booking {
        let moves = [
            (Account::PatientReceivable, Account::Revenue, share),
            (Account::PayerReceivable, Account::Revenue, net),
        ];
        Self::of(Cause::OrderFulfilled, origin, moves)
    }

    /// Revenue given up again.
    pub fn order_returned(origin: Origin, share: Money, net: Money) -> Booking {
        let moves = [
            (Account::Revenue, Account::PatientReceivable, share),
            (Account::Revenue, Account::PayerReceivable, net),
        ];
        Self::of(Cause::OrderReturned, origin, moves)
    }

    /// The patient has paid.
    pub fn payment_captured(origin: Origin, amount: Money) -> Booking {
        Self::of(
            Cause::PaymentCaptured,
            origin,
            [(Account::Cash, Account::PatientReceivable, amount)],
        )
    }

    /// The patient got money back.
    pub fn refund(origin: Origin, amount: Money) -> Booking {
        Self::of(
            Cause::Refund,
            origin,
            [(Account::PatientReceivable, Account::Cash, amount)],
        )
    }

    /// The payer has paid, line by line.
    pub fn remittance_paid(origin: Origin, lines: impl IntoIterator<Item = Money>) -> Booking {
        let moves = lines
            .into_iter()
            .map(|amount| (Account::PayerCash, Account::PayerReceivable, amount));
        Self::of(Cause::RemittancePaid, origin, moves)
    }

    /// The payer has taken back, line by line; the amounts are positive.
    pub fn takeback(origin: Origin, lines: impl IntoIterator<Item = Money>) -> Booking {
        let moves = lines
            .into_iter()
            .map(|amount| (Account::PayerReceivable, Account::PayerCash, amount));
        Self::of(Cause::Takeback, origin, moves)
    }

    /// What the payer refused has become the patient's debt.
    pub fn denial_transferred(origin: Origin, amount: Money) -> Booking {
        let moves = [(Account::PatientReceivable, Account::PayerReceivable, amount)];
        Self::of(Cause::DenialTransferred, origin, moves)
    }

    /// What the payer and what the patient will never pay.
    pub fn write_off(origin: Origin, payers: Money, patients: Money) -> Booking {
        let moves = [
            (Account::BadDebt, Account::PayerReceivable, payers),
            (Account::BadDebt, Account::PatientReceivable, patients),
        ];
        Self::of(Cause::WriteOff, origin, moves)
    }

    /// The payer has paid what had become the patient's debt: the patient owes less.
    pub fn transfer_reversed(origin: Origin, amount: Money) -> Booking {
        let moves = [(Account::PayerReceivable, Account::PatientReceivable, amount)];
        Self::of(Cause::TransferReversed, origin, moves)
    }

    /// What was written off of the payer's or the patient's part was paid after all.
    pub fn write_off_reversed(origin: Origin, payers: Money, patients: Money) -> Booking {
        let moves = [
            (Account::PayerReceivable, Account::BadDebt, payers),
            (Account::PatientReceivable, Account::BadDebt, patients),
        ];
        Self::of(Cause::WriteOffReversed, origin, moves)
    }

    /// The last hundredth by which a claim and its activities differ: left open by the payer when positive, paid too
    /// much when negative.
    pub fn rounding(origin: Origin, amount: Money) -> Booking {
        let (debit, credit) = (Account::Rounding, Account::PayerReceivable);
        let moves = match amount.is_negative() {
            true => (
                credit,
                debit,
                amount.checked_neg().map_err(|_| Unbookable(amount))?,
            ),
            false => (debit, credit, amount),
        };
        Self::of(Cause::Rounding, origin, [moves])
    }

    /// The entries, a debit and its credit side by side.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn of(
        cause: Cause,
        origin: Origin,
        moves: impl IntoIterator<Item = (Account, Account, Money)>,
    ) -> Booking {
        let mut entries = Vec::new();
        for (debit, credit, amount) in moves {
            if amount.is_negative() {
                return Err(Unbookable(amount));
            }
            if amount.is_positive() {
                let (currency, amount) = (amount.currency(), amount.minor());
                entries.push(Entry {
                    account: debit,
                    amount,
                    currency,
                });
                entries.push(Entry {
                    account: credit,
                    amount: -amount,
                    currency,
                });
            }
        }
        let booked = !entries.is_empty();
        Ok(booked.then(|| Self {
            id: Uuid::now_v7(),
            cause,
            origin,
            entries,
        }))
    }
}

/// A transaction; none when no amount is above zero.
pub type Booking = Result<Option<Transaction>, Unbookable>;

impl Account {
    pub const ALL: [Self; 7] = [
        Self::PatientReceivable,
        Self::PayerReceivable,
        Self::Cash,
        Self::PayerCash,
        Self::Revenue,
        Self::BadDebt,
        Self::Rounding,
    ];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::PatientReceivable => "PATIENT_RECEIVABLE",
            Self::PayerReceivable => "PAYER_RECEIVABLE",
            Self::Cash => "CASH",
            Self::PayerCash => "PAYER_CASH",
            Self::Revenue => "REVENUE",
            Self::BadDebt => "BAD_DEBT",
            Self::Rounding => "ROUNDING",
        }
    }

    /// The account of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|account| account.name() == name)
    }
}

impl Cause {
    pub const ALL: [Self; 11] = [
        Self::OrderFulfilled,
        Self::PaymentCaptured,
        Self::RemittancePaid,
        Self::Takeback,
        Self::DenialTransferred,
        Self::WriteOff,
        Self::Refund,
        Self::OrderReturned,
        Self::TransferReversed,
        Self::WriteOffReversed,
        Self::Rounding,
    ];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::OrderFulfilled => "ORDER_FULFILLED",
            Self::PaymentCaptured => "PAYMENT_CAPTURED",
            Self::RemittancePaid => "REMITTANCE_PAID",
            Self::Takeback => "TAKEBACK",
            Self::DenialTransferred => "DENIAL_TRANSFERRED",
            Self::WriteOff => "WRITE_OFF",
            Self::Refund => "REFUND",
            Self::OrderReturned => "ORDER_RETURNED",
            Self::TransferReversed => "TRANSFER_REVERSED",
            Self::WriteOffReversed => "WRITE_OFF_REVERSED",
            Self::Rounding => "ROUNDING",
        }
    }

    /// The cause of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
