use super::*;

fn money(units: i64) -> Option<WireMoney> {
    Some(WireMoney {
        currency_code: "AED".into(),
        units,
        nanos: 0,
    })
}

fn line(units: i64) -> PlaceOrderLine {
    let quantity = Some(WireDecimal { value: "1".into() });
    PlaceOrderLine {
        code: "C".into(),
        description: String::new(),
        quantity,
        amount: money(units),
    }
}

fn claim(gross: i64, patient_share: i64, net: i64) -> Option<ClaimDetails> {
    let (gross, patient_share, net) = (money(gross), money(patient_share), money(net));
    Some(ClaimDetails {
        payer_id: "INS-1".into(),
        gross,
        patient_share,
        net,
        ..ClaimDetails::default()
    })
}

fn place(request: PlaceOrderRequest) -> Result<Price, Vec<String>> {
    let taken = place_order(&Facility::new("F1").unwrap(), request);
    taken
        .map(|taken| taken.new_order.price)
        .map_err(|violations| violations.iter().map(|v| v.field.clone()).collect())
}

#[test]
fn without_a_claim_the_patient_pays_everything() {
    let request = PlaceOrderRequest {
        lines: vec![line(30), line(70)],
        ..Default::default()
    };
    let price = place(request.clone()).unwrap();
    assert_eq!(
        price,
        Price {
            gross: 10_000,
            patient_share: 10_000,
            payer_net: 0,
            other_payer: 0
        }
    );
    let short = PlaceOrderRequest {
        patient_share: money(99),
        ..request
    };
    assert_eq!(place(short).unwrap_err(), ["patient_share"]);
}

#[test]
fn with_a_claim_the_patient_pays_what_the_payer_does_not_unless_the_share_is_given() {
    let request = PlaceOrderRequest {
        lines: vec![line(500)],
        claim: claim(500, 100, 400),
        ..Default::default()
    };
    let price = place(request).unwrap();
    assert_eq!(
        price,
        Price {
            gross: 50_000,
            patient_share: 10_000,
            payer_net: 40_000,
            other_payer: 0
        }
    );
    let request = PlaceOrderRequest {
        lines: vec![line(500)],
        claim: claim(500, 100, 300),
        patient_share: money(100),
        ..Default::default()
    };
    assert_eq!(place(request).unwrap().other_payer, 10_000);
}

#[test]
fn all_amounts_that_do_not_add_up_are_reported_together() {
    let request = PlaceOrderRequest {
        lines: vec![line(500)],
        claim: claim(501, 101, 450),
        patient_share: money(100),
        ..Default::default()
    };
    assert_eq!(
        place(request).unwrap_err(),
        ["claim.net", "claim.gross", "claim.patient_share"]
    );
}

#[test]
fn mixed_currencies_fractions_of_minor_units_and_invalid_quantities_are_reported_by_line() {
    let mut lines = vec![line(1), line(2), line(3)];
    lines[1].amount = Some(WireMoney {
        currency_code: "USD".into(),
        units: 2,
        nanos: 0,
    });
    lines[2].amount = Some(WireMoney {
        currency_code: "AED".into(),
        units: 3,
        nanos: 1,
    });
    lines[2].quantity = Some(WireDecimal { value: "0".into() });
    let request = PlaceOrderRequest {
        lines,
        ..Default::default()
    };
    assert_eq!(
        place(request).unwrap_err(),
        ["lines[1].amount", "lines[2].amount", "lines[2].quantity"]
    );
}

#[test]
fn an_order_with_a_price_of_zero_is_accepted() {
    let mut free = PlaceOrderRequest {
        lines: vec![line(0)],
        ..Default::default()
    };
    assert_eq!(place(free.clone()).unwrap().gross, 0);
    free.claim = claim(0, 0, 0);
    assert_eq!(place(free).unwrap().payer_net, 0);
}

#[test]
fn a_share_above_the_price_is_reported_as_the_share() {
    let request = PlaceOrderRequest {
        lines: vec![line(77)],
        claim: claim(77, 80, 0),
        patient_share: money(80),
        ..Default::default()
    };
    assert_eq!(place(request).unwrap_err(), ["patient_share"]);
}

#[test]
fn an_order_whose_sum_overflows_is_refused() {
    let huge = i64::MAX / 100 - 1;
    let request = PlaceOrderRequest {
        lines: vec![line(huge), line(huge)],
        ..Default::default()
    };
    assert!(place(request).unwrap_err().contains(&"lines".to_owned()));
}

#[test]
fn lines_that_sum_to_more_than_the_largest_amount_are_refused() {
    let in_dong = |units| {
        let mut line = line(units);
        line.amount.as_mut().unwrap().currency_code = "VND".to_owned();
        line
    };
    let order = |lines| PlaceOrderRequest {
        lines,
        ..Default::default()
    };
    let most = 1_000_000_000;
    assert_eq!(
        place(order(vec![in_dong(most), in_dong(most)])).unwrap_err(),
        ["lines"]
    );
    assert_eq!(
        place(order(vec![in_dong(most - 1), in_dong(1)])).unwrap().gross,
        most
    );
    assert_eq!(place(order(vec![line(most), line(1)])).unwrap_err(), ["lines"]);
}

/// A placeholder for an unreadable amount is not reported.
#[test]
fn an_unreadable_amount_is_reported_once() {
    let mut other = line(70);
    other.amount.as_mut().unwrap().currency_code = "GBP".into();
    let request = PlaceOrderRequest {
        lines: vec![line(30), other],
        patient_share: money(100),
        ..Default::default()
    };
    assert_eq!(place(request.clone()).unwrap_err(), ["lines[1].amount"]);
    let insured = PlaceOrderRequest {
        claim: claim(100, 10, 90),
        patient_share: money(10),
        ..request
    };
    assert_eq!(place(insured).unwrap_err(), ["lines[1].amount"]);
}
