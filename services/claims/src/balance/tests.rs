use super::*;

fn claimed() -> Vec<ClaimedActivity> {
    [("A1", 15_000), ("A2", 10_000), ("A3", 15_000)]
        .map(|(id, net)| ClaimedActivity {
            activity_id: id.to_owned(),
            net,
        })
        .to_vec()
}

/// A line that was settled on day `day`.
fn line(day: i64, activity_id: &str, payment: i64, denial_code: &str) -> Line {
    Line {
        activity_id: activity_id.to_owned(),
        payment,
        denial_code: denial_code.to_owned(),
        settled_at: OffsetDateTime::UNIX_EPOCH + time::Duration::days(day),
    }
}

fn statuses(balance: &Balance) -> Vec<Status> {
    balance
        .activities
        .iter()
        .map(|activity| activity.status)
        .collect()
}

#[test]
fn the_example_pays_240_then_340_then_190() {
    let mut lines = vec![
        line(1, "A1", 15_000, ""),
        line(1, "A2", 0, "AUTH-001"),
        line(1, "A3", 9_000, "PRCE-001"),
    ];
    let first = Balance::new(&claimed(), &lines);
    assert_eq!((first.net_paid(), first.status), (24_000, Status::PartiallyPaid));
    assert_eq!(
        statuses(&first),
        [Status::Paid, Status::Denied, Status::PartiallyPaid]
    );

    lines.extend([line(2, "A2", 10_000, ""), line(2, "A3", 0, "PRCE-001")]);
    let second = Balance::new(&claimed(), &lines);
    assert_eq!(
        (second.net_paid(), second.status),
        (34_000, Status::PartiallyPaid)
    );
    assert_eq!(
        statuses(&second),
        [Status::Paid, Status::Paid, Status::PartiallyPaid]
    );

    lines.push(line(3, "A1", -15_000, "PRCE-003"));
    let third = Balance::new(&claimed(), &lines);
    assert_eq!(
        (third.paid, third.taken_back, third.net_paid()),
        (34_000, 15_000, 19_000)
    );
    assert_eq!(third.status, Status::PartiallyTakenBack);
    assert_eq!(
        statuses(&third),
        [Status::TakenBack, Status::Paid, Status::PartiallyPaid]
    );
}

#[test]
fn without_a_line_everything_is_pending() {
    let balance = Balance::new(&claimed(), &[]);
    assert_eq!((balance.net_paid(), balance.status), (0, Status::Pending));
}

#[test]
fn payments_above_the_net_are_capped_at_the_net() {
    let lines = [line(1, "A2", 8_000, "PRCE-001"), line(2, "A2", 8_000, "")];
    let balance = Balance::new(&claimed(), &lines);
    assert_eq!((balance.activities[1].paid, balance.surplus), (10_000, 6_000));
}

#[test]
fn a_takeback_counts_up_to_the_payments_in_either_order_of_arrival() {
    let mut lines = vec![
        line(1, "A1", 10_000, "PRCE-001"),
        line(2, "A1", -12_000, "PRCE-003"),
    ];
    let balance = Balance::new(&claimed(), &lines);
    assert_eq!(
        (balance.paid, balance.taken_back, balance.status),
        (10_000, 10_000, Status::TakenBack)
    );
    lines.reverse();
    assert_eq!(Balance::new(&claimed(), &lines), balance);
}

#[test]
fn paid_taken_back_and_paid_again_counts_as_paid_in_any_order_of_arrival() {
    let mut lines = vec![
        line(1, "A1", 15_000, ""),
        line(2, "A1", -15_000, "PRCE-003"),
        line(3, "A1", 15_000, ""),
    ];
    for _ in 0..lines.len() {
        lines.rotate_left(1);
        let balance = Balance::new(&claimed()[..1], &lines);
        assert_eq!((balance.net_paid(), balance.status), (15_000, Status::Paid));
        assert_eq!((balance.surplus, balance.excess), (0, 0));
    }
    lines.push(line(4, "A1", -6_000, "PRCE-003"));
    let balance = Balance::new(&claimed()[..1], &lines);
    assert_eq!(
        (balance.paid, balance.taken_back, balance.net_paid()),
        (15_000, 6_000, 9_000)
    );
    assert_eq!(balance.status, Status::PartiallyTakenBack);
}

#[test]
fn a_takeback_of_a_surplus_does_not_reduce_net_paid() {
    let lines = [line(1, "A2", 13_000, ""), line(2, "A2", -3_000, "PRCE-003")];
    let balance = Balance::new(&claimed()[1..2], &lines);
    assert_eq!((balance.net_paid(), balance.status), (10_000, Status::Paid));
    assert_eq!((balance.taken_back, balance.surplus, balance.excess), (0, 0, 0));
}

/// Checks the rule for all sequences of four lines of one activity.
#[test]
fn net_paid_is_payments_less_takebacks_between_zero_and_the_net() {
    let amounts = [-20_000, -10_000, -4_000, 0, 4_000, 10_000, 20_000];
    let claimed = &claimed()[1..2];
    for number in 0..amounts.len().pow(4) {
        let lines: Vec<Line> = (0..4)
            .map(|place| amounts[number / amounts.len().pow(place) % amounts.len()])
            .map(|amount| line(1, "A2", amount, "PRCE-003"))
            .collect();
        let sum: i64 = lines.iter().map(|line| line.payment).sum();
        let balance = Balance::new(claimed, &lines);
        assert_eq!(balance.net_paid(), sum.clamp(0, 10_000), "{lines:?}");
        assert_eq!(balance.net_paid() + balance.surplus - balance.excess, sum);
        let changed: i64 = changes(claimed, &[], &lines)
            .iter()
            .map(|change| change.amount)
            .sum();
        assert_eq!(changed, balance.net_paid());
    }
}

#[test]
fn the_denial_code_is_of_the_latest_settlement_not_of_the_latest_arrival() {
    let lines = [line(5, "A1", 0, "MNEC-003"), line(2, "A1", 0, "AUTH-001")];
    let balance = Balance::new(&claimed(), &lines);
    assert_eq!(balance.activities[0].denial_code, "MNEC-003");
    assert_eq!(balance.status, Status::Denied);
}

#[test]
fn all_paid_and_all_taken_back() {
    let mut lines: Vec<Line> = claimed()
        .iter()
        .map(|claimed| line(1, &claimed.activity_id, claimed.net, ""))
        .collect();
    assert_eq!(Balance::new(&claimed(), &lines).status, Status::Paid);
    lines.extend(
        claimed()
            .iter()
            .map(|claimed| line(2, &claimed.activity_id, -claimed.net, "PRCE-003")),
    );
    assert_eq!(Balance::new(&claimed(), &lines).status, Status::TakenBack);
}

#[test]
fn sums_above_64_bits_are_capped() {
    let lines = [
        line(1, "A1", i64::MAX, ""),
        line(1, "A1", i64::MAX, ""),
        line(2, "A1", i64::MIN, ""),
    ];
    let balance = Balance::new(&claimed(), &lines);
    assert_eq!((balance.paid, balance.net_paid()), (15_000, 15_000));
    assert_eq!(balance.surplus, i64::MAX - 1 - 15_000);
}

#[test]
fn the_changes_of_single_lines_add_up_to_the_balance() {
    let booked = [line(1, "A1", 10_000, "PRCE-001")];
    let new = [
        line(2, "A1", 9_000, ""),
        line(2, "A1", -16_000, "PRCE-003"),
        line(2, "A2", 0, "AUTH-001"),
        line(2, "A9", 5_000, ""),
    ];
    let changes = changes(&claimed(), &booked, &new);
    let amounts: Vec<_> = changes
        .iter()
        .map(|change| (change.amount, change.excess))
        .collect();
    // 190 paid on a net of 150, less 160 taken back, leaves 30.
    assert_eq!(amounts, [(5_000, 0), (-12_000, 0), (0, 0), (0, 0)]);
    let all: Vec<Line> = booked.into_iter().chain(new).collect();
    let before = 10_000;
    let after = Balance::new(&claimed(), &all).net_paid();
    assert_eq!(
        before + amounts.iter().map(|(amount, _)| amount).sum::<i64>(),
        after
    );
}
