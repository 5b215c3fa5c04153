//! The double-entry ledger: the accounts between which each cause moves money. A booked transaction never changes.

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

/// The cause of a transaction.
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

/// The order and payment of a transaction, and what caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub order_id: Uuid,
    pub payment_id: Option<Uuid>,
    /// The event or request that caused it.
    pub causation_id: Uuid,
    /// The event or processor operation that it books. Each source is booked once per cause.
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
        Self::new(Cause::OrderFulfilled, origin, moves)
    }

    /// Revenue reversed by a return.
    pub fn order_returned(origin: Origin, share: Money, net: Money) -> Booking {
        let moves = [
            (Account::Revenue, Account::PatientReceivable, share),
            (Account::Revenue, Account::PayerReceivable, net),
        ];
        Self::new(Cause::OrderReturned, origin, moves)
    }

    /// The patient has paid.
    pub fn payment_captured(origin: Origin, amount: Money) -> Booking {
        Self::new(
            Cause::PaymentCaptured,
            origin,
            [(Account::Cash, Account::PatientReceivable, amount)],
        )
    }

    /// The patient was refunded.
    pub fn refund(origin: Origin, amount: Money) -> Booking {
        Self::new(
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
        Self::new(Cause::RemittancePaid, origin, moves)
    }

    /// The payer has taken money back, line by line; the amounts are positive.
    pub fn takeback(origin: Origin, lines: impl IntoIterator<Item = Money>) -> Booking {
        let moves = lines
            .into_iter()
            .map(|amount| (Account::PayerReceivable, Account::PayerCash, amount));
        Self::new(Cause::Takeback, origin, moves)
    }

    /// The patient owes an amount that the payer has denied.
    pub fn denial_transferred(origin: Origin, amount: Money) -> Booking {
        let moves = [(Account::PatientReceivable, Account::PayerReceivable, amount)];
        Self::new(Cause::DenialTransferred, origin, moves)
    }

    /// The amounts of the payer and of the patient that will never be paid.
    pub fn write_off(origin: Origin, payers: Money, patients: Money) -> Booking {
        let moves = [
            (Account::BadDebt, Account::PayerReceivable, payers),
            (Account::BadDebt, Account::PatientReceivable, patients),
        ];
        Self::new(Cause::WriteOff, origin, moves)
    }

    /// The payer has paid an amount that was transferred to the patient: the patient owes less.
    pub fn transfer_reversed(origin: Origin, amount: Money) -> Booking {
        let moves = [(Account::PayerReceivable, Account::PatientReceivable, amount)];
        Self::new(Cause::TransferReversed, origin, moves)
    }

    /// Amounts of the payer or the patient that were written off and then paid.
    pub fn write_off_reversed(origin: Origin, payers: Money, patients: Money) -> Booking {
        let moves = [
            (Account::PayerReceivable, Account::BadDebt, payers),
            (Account::PatientReceivable, Account::BadDebt, patients),
        ];
        Self::new(Cause::WriteOffReversed, origin, moves)
    }

    /// The hundredth by which a claim differs from the sum of its activities: unpaid by the payer if positive,
    /// overpaid if negative.
    pub fn rounding(origin: Origin, amount: Money) -> Booking {
        let (debit, credit) = (Account::Rounding, Account::PayerReceivable);
        let moves = if amount.is_negative() {
            let overpaid = amount.checked_neg().map_err(|_| Unbookable(amount))?;
            (credit, debit, overpaid)
        } else {
            (debit, credit, amount)
        };
        Self::new(Cause::Rounding, origin, [moves])
    }

    /// The entries, each debit next to its credit.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn new(
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

/// A transaction; `None` if no amount is above zero.
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

    /// The name in the database.
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

    /// The account with this name.
    pub fn from_name(name: &str) -> Option<Self> {
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

    /// The name in the database.
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

    /// The cause with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
