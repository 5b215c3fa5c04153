//! Valid requests, which the scenarios change.

use proto::{
    claims::v1::{Activity, ClaimDetails, Diagnosis, DiagnosisType, Encounter},
    google::r#type::{Decimal, Money},
    order::v1::{CaptureMode, PlaceOrderLine, PlaceOrderRequest},
};
use uuid::Uuid;

/// An amount in dirhams.
pub(crate) fn aed(units: i64) -> Money {
    Money {
        currency_code: "AED".to_owned(),
        units,
        nanos: 0,
    }
}

/// An order of a self-paying patient over 30 dirhams, captured on fulfilment.
pub(crate) fn self_pay_order(payment_method: &str) -> PlaceOrderRequest {
    PlaceOrderRequest {
        request_id: Uuid::new_v4().to_string(),
        patient_id: "PT-0042".to_owned(),
        lines: vec![line("85123A", 10), line("71053", 20)],
        payment_method: payment_method.to_owned(),
        ..PlaceOrderRequest::default()
    }
}

/// An order over 120 dirhams, of which the insurer is billed 100, captured at once.
pub(crate) fn insured_order(payment_method: &str) -> PlaceOrderRequest {
    PlaceOrderRequest {
        patient_id: "PT-0001".to_owned(),
        lines: vec![line("SVC-CONS", 120)],
        patient_share: Some(aed(20)),
        claim: Some(claim(&format!("CLM-{}", Uuid::new_v4().simple()))),
        capture_mode: CaptureMode::Immediate as i32,
        ..self_pay_order(payment_method)
    }
}

/// A line with quantity one.
pub(crate) fn line(code: &str, amount: i64) -> PlaceOrderLine {
    PlaceOrderLine {
        code: code.to_owned(),
        description: String::new(),
        quantity: Some(Decimal {
            value: "1".to_owned(),
        }),
        amount: Some(aed(amount)),
    }
}

/// A claim of one consultation for 100 dirhams.
pub(crate) fn claim(claim_id: &str) -> ClaimDetails {
    let at = |minute: i64| {
        Some(prost_types::Timestamp {
            seconds: 1_741_152_600 + 60 * minute,
            nanos: 0,
        })
    };
    ClaimDetails {
        claim_id: claim_id.to_owned(),
        member_id: "MBR-0001".to_owned(),
        payer_id: "TEST-INS-1".to_owned(),
        provider_id: "TEST-FAC-1".to_owned(),
        emirates_id_number: "999-9999-9999999-9".to_owned(),
        gross: Some(aed(120)),
        patient_share: Some(aed(20)),
        net: Some(aed(100)),
        encounter: Some(Encounter {
            facility_id: "TEST-FAC-1".to_owned(),
            r#type: 1,
            patient_id: "PT-0001".to_owned(),
            start_time: at(0),
            end_time: at(40),
            start_type: 1,
            end_type: 1,
            ..Encounter::default()
        }),
        diagnoses: vec![Diagnosis {
            r#type: DiagnosisType::Principal as i32,
            code: "M54.5".to_owned(),
        }],
        activities: vec![Activity {
            id: "A1".to_owned(),
            start_time: at(10),
            r#type: 8,
            code: "SVC-CONS".to_owned(),
            quantity: Some(Decimal {
                value: "1".to_owned(),
            }),
            net: Some(aed(100)),
            clinician: "TEST-CLN-1".to_owned(),
            ..Activity::default()
        }],
        ..ClaimDetails::default()
    }
}
