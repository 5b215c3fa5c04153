//! The balance of a claim. It is always derived from the remittance lines and never stored, so that the two cannot
//! differ.
//!
//! Per activity, net paid = min(max(sum of the payments - sum of the takebacks, 0), net). A payer may pay again
//! what it has taken back: payers correct a claim by taking back all of it and paying it again. If a payer takes
//! back more than it has paid, it has made a mistake, which the import reports, or its payment is still to come.
//! Sums do not depend on the order in which lines arrive.

use std::collections::HashMap;

use time::OffsetDateTime;

/// The claimed amount of one activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedActivity {
    /// The activity.
    pub activity_id: String,
    /// The claimed net in minor units.
    pub net: i64,
}

/// A remittance line of one activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The activity.
    pub activity_id: String,
    /// The payment in minor units; negative for a takeback.
    pub payment: i64,
    /// The denial code; empty for none.
    pub denial_code: String,
    /// When it was settled.
    pub settled_at: OffsetDateTime,
}

/// The financial status of an activity or a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is no remittance line yet, or none that pays or denies.
    Pending,
    /// Some of the net was paid.
    PartiallyPaid,
    /// All of the net was paid.
    Paid,
    /// Nothing was paid and the latest line carries a denial code.
    Denied,
    /// Some of what was paid was taken back.
    PartiallyTakenBack,
    /// All of what was paid was taken back.
    TakenBack,
}

/// One activity's balance, in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The activity.
    pub activity_id: String,
    /// The claimed net.
    pub net: i64,
    /// The sum of the payments, at most `net`.
    pub paid: i64,
    /// The part of `paid` that is taken back and not paid again.
    pub taken_back: i64,
    /// By how much payments less takebacks exceed `net`.
    pub surplus: i64,
    /// By how much takebacks exceed payments.
    pub excess: i64,
    /// The denial code of the latest line by settlement date; empty if that line has none.
    pub denial_code: String,
    /// The resulting status.
    pub status: Status,
}

/// A claim's balance, in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The balances of the activities, in the order of the claim.
    pub activities: Vec<Activity>,
    /// The sum of the activities' `paid`.
    pub paid: i64,
    /// The sum of the activities' `taken_back`.
    pub taken_back: i64,
    /// The sum of the activities' `surplus`, which does not count as paid.
    pub surplus: i64,
    /// The sum of the activities' `excess`, which does not count as taken back until the payments arrive.
    pub excess: i64,
    /// The resulting status.
    pub status: Status,
}

impl Balance {
    /// Derives the balance of a claim from its claimed activities and its lines, in the order they were booked.
    pub fn new(claimed: &[ClaimedActivity], lines: &[Line]) -> Balance {
        let mut tallies = Tallies::new(claimed);
        for line in lines {
            tallies.add(line);
        }
        let activities: Vec<Activity> = claimed
            .iter()
            .map(|activity| tallies.activity(activity))
            .collect();
        let sum = |part: fn(&Activity) -> i64| activities.iter().map(part).fold(0, i64::saturating_add);
        let (net, paid, taken_back) = (sum(|a| a.net), sum(|a| a.paid), sum(|a| a.taken_back));
        let (surplus, excess) = (sum(|a| a.surplus), sum(|a| a.excess));
        let status = status(net, paid, taken_back, latest(lines.iter()));
        Balance {
            activities,
            paid,
            taken_back,
            surplus,
            excess,
            status,
        }
    }

    /// `paid` less `taken_back`.
    pub fn net_paid(&self) -> i64 {
        self.paid - self.taken_back
    }
}

/// The effect of one new line on its activity, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The change of `paid` less `taken_back`.
    pub amount: i64,
    /// By how much a takeback exceeds what is paid so far; 0 for other lines.
    pub excess: i64,
    /// By how much a payment brings the total above the net; 0 for other lines.
    pub surplus: i64,
}

/// The changes by the lines in `new`, one after the other, after the lines in `booked`.
pub fn changes(claimed: &[ClaimedActivity], booked: &[Line], new: &[Line]) -> Vec<Change> {
    let mut tallies = Tallies::new(claimed);
    for line in booked {
        tallies.add(line);
    }
    new.iter().map(|line| tallies.add(line)).collect()
}

/// The running sums of a claim's activities, by activity id.
struct Tallies<'a>(HashMap<&'a str, Tally<'a>>);

#[derive(Default)]
struct Tally<'a> {
    net: i64,
    positive: i128,
    negative: i128,
    latest: Option<&'a Line>,
}

impl<'a> Tallies<'a> {
    fn new(claimed: &'a [ClaimedActivity]) -> Tallies<'a> {
        let tally = |claimed: &'a ClaimedActivity| {
            (
                claimed.activity_id.as_str(),
                Tally {
                    net: claimed.net,
                    ..Tally::default()
                },
            )
        };
        Tallies(claimed.iter().map(tally).collect())
    }

    /// Adds a line. A line of an activity that was not claimed changes nothing.
    fn add(&mut self, line: &'a Line) -> Change {
        let Some(tally) = self.0.get_mut(line.activity_id.as_str()) else {
            return Change::default();
        };
        let before = tally.net_paid();
        tally.positive += i128::from(line.payment.max(0));
        tally.negative -= i128::from(line.payment.min(0));
        tally.latest = latest(tally.latest.into_iter().chain([line]));
        Change {
            amount: tally.net_paid() - before,
            excess: if line.payment < 0 { tally.excess() } else { 0 },
            surplus: if line.payment > 0 { tally.surplus() } else { 0 },
        }
    }

    fn activity(&self, claimed: &ClaimedActivity) -> Activity {
        let none = Tally {
            net: claimed.net,
            ..Tally::default()
        };
        let tally = self.0.get(claimed.activity_id.as_str()).unwrap_or(&none);
        Activity {
            activity_id: claimed.activity_id.clone(),
            net: claimed.net,
            paid: tally.paid(),
            taken_back: tally.taken_back(),
            surplus: tally.surplus(),
            excess: tally.excess(),
            denial_code: tally
                .latest
                .map(|line| line.denial_code.clone())
                .unwrap_or_default(),
            status: status(claimed.net, tally.paid(), tally.taken_back(), tally.latest),
        }
    }
}

impl Tally<'_> {
    fn paid(&self) -> i64 {
        capped(self.positive, self.net)
    }

    fn net_paid(&self) -> i64 {
        capped((self.positive - self.negative).max(0), self.net)
    }

    fn taken_back(&self) -> i64 {
        self.paid() - self.net_paid()
    }

    fn surplus(&self) -> i64 {
        excess_over(self.positive - self.negative, self.net)
    }

    fn excess(&self) -> i64 {
        excess_over(self.negative - self.positive, 0)
    }
}

fn excess_over(amount: i128, bound: i64) -> i64 {
    let excess = (amount - i128::from(bound)).max(0);
    i64::try_from(excess).unwrap_or(i64::MAX)
}

fn capped(amount: i128, bound: i64) -> i64 {
    i64::try_from(amount).map_or(bound, |amount| amount.min(bound))
}

/// The latest line by settlement date; of several, the one that was booked last.
fn latest<'a>(lines: impl Iterator<Item = &'a Line>) -> Option<&'a Line> {
    lines.max_by_key(|line| line.settled_at)
}

fn status(net: i64, paid: i64, taken_back: i64, latest: Option<&Line>) -> Status {
    let Some(latest) = latest else {
        return Status::Pending;
    };
    let denied = !latest.denial_code.is_empty();
    match (paid, taken_back) {
        (0, _) if denied => Status::Denied,
        (0, _) if net > 0 => Status::Pending,
        (_, 0) if paid < net => Status::PartiallyPaid,
        (_, 0) => Status::Paid,
        _ if taken_back < paid => Status::PartiallyTakenBack,
        _ => Status::TakenBack,
    }
}

#[cfg(test)]
#[path = "balance/tests.rs"]
mod tests;
