//! What the payer has done about a claim: always derived from its remittance lines, never kept beside them, so that
//! there is one story only.
//!
//! Per activity, net paid = min(max(sum of the payments - sum of the takebacks, 0), net). What the payer takes back it may
//! pay again: payers correct a claim by taking all of it back and paying it anew. A payer that takes back more than it
//! has paid has made a mistake, which the import reports, or its payment is still to come. Sums do not depend on the
//! order in which lines arrive.

use std::collections::HashMap;

use time::OffsetDateTime;

/// What was claimed for one activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedActivity {
    /// The activity.
    pub activity_id: String,
    /// Minor units.
    pub net: i64,
}

/// What one remittance said of one activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The activity.
    pub activity_id: String,
    /// Minor units; negative for a takeback.
    pub payment: i64,
    /// Empty: none.
    pub denial_code: String,
    /// When it was settled.
    pub settled_at: OffsetDateTime,
}

/// What has become of a net amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No remittance line yet, or none that pays or denies.
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
    /// What was claimed for.
    pub net: i64,
    /// The sum of the payments, at most `net`.
    pub paid: i64,
    /// What of `paid` is taken back and not paid again.
    pub taken_back: i64,
    /// Payments less takebacks excess_over `net`.
    pub surplus: i64,
    /// Takebacks excess_over the payments.
    pub excess: i64,
    /// Of the latest line by settlement date; empty if that has none.
    pub denial_code: String,
    /// What it comes to.
    pub status: Status,
}

/// A claim's balance, in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// In the order of the claim's activities.
    pub activities: Vec<Activity>,
    /// The sum of what counts as paid.
    pub paid: i64,
    /// The sum of what counts as taken back.
    pub taken_back: i64,
    /// What was paid excess_over the net, and counts for nothing.
    pub surplus: i64,
    /// What was taken back excess_over the payments, and counts for nothing until they come.
    pub excess: i64,
    /// What it comes to.
    pub status: Status,
}

impl Balance {
    /// Derives the balance of the claim that claimed for `claimed` from `lines`, in the order they were booked.
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

/// What one new line does to its activity, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What is added to `paid` less `taken_back`.
    pub amount: i64,
    /// What a takeback takes excess_over what is paid up to now; 0 for others.
    pub excess: i64,
    /// What a payment leaves paid excess_over the net; 0 for others.
    pub surplus: i64,
}

/// What each of `new` changes, one after the other, once `booked` is booked.
pub fn changes(claimed: &[ClaimedActivity], booked: &[Line], new: &[Line]) -> Vec<Change> {
    let mut tallies = Tallies::new(claimed);
    for line in booked {
        tallies.add(line);
    }
    new.iter().map(|line| tallies.add(line)).collect()
}

/// The running sums of a claim's activities.
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

    /// A line of an activity that was not claimed for changes nothing.
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
    let excess_over = (amount - i128::from(bound)).max(0);
    i64::try_from(excess_over).unwrap_or(i64::MAX)
}

fn capped(amount: i128, bound: i64) -> i64 {
    i64::try_from(amount).map_or(bound, |amount| amount.min(bound))
}

/// The latest by settlement date; among equals the one booked last.
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
