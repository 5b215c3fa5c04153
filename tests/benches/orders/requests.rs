//! Requests of the load: encoded once, with new ids for each call.

use std::{fmt, sync::Mutex, sync::PoisonError};

use bytes::Bytes;
use clap::ValueEnum;
use prost::Message as _;
use proto::{
    claims::v1::{Activity, ClaimDetails, Diagnosis, DiagnosisType, Encounter},
    google::r#type::{Decimal, Money},
    order::v1::{CaptureMode, PlaceOrderLine, PlaceOrderRequest},
};
use rand::Rng as _;
use serde::Serialize;
use tonic::metadata::{Ascii, MetadataValue};
use uuid::Uuid;

/// Repetitions of an answered request, per ten thousand requests.
const REPEATED: u32 = 100;
/// Requests with a declined card, per ten thousand.
const DECLINED: u32 = 100;
/// Requests with an invalid claim, per ten thousand; only of insured orders.
const INVALID: u32 = 10;
/// Number of answered requests from which repetitions are drawn.
const REMEMBERED: usize = 512;

/// Placeholders in the encoded request for the request's id and number.
const ID: &str = "00000000-0000-4000-8000-00000000feed";
const NUMBER: &str = "0000000000004000800000000000feed";

/// Kind of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Three lines, a claim of three activities, the share captured at once, the claim filed
    Insured,
    /// Three lines, all captured at once
    SelfPay,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Insured => "insured",
            Kind::SelfPay => "self-pay",
        })
    }
}

/// Expected outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Fulfilled,
    Declined,
    Invalid,
}

/// One call of the load.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) message: Bytes,
    pub(crate) authorization: MetadataValue<Ascii>,
    pub(crate) expected: Expected,
    /// For a repetition: the answer of the first call.
    pub(crate) answered: Option<Bytes>,
}

/// Generates the requests for one system.
pub(crate) struct Requests {
    kind: Kind,
    fulfilled: Template,
    declined: Template,
    invalid: Template,
    tokens: Vec<MetadataValue<Ascii>>,
    /// For each facility, the cumulative share of its requests and those of the facilities before it (Zipf,
    /// exponent 1).
    shares: Vec<f64>,
    remembered: Mutex<Vec<Request>>,
}

/// An encoded request, with the positions of its id and numbers.
struct Template {
    message: Vec<u8>,
    ids: Vec<usize>,
    numbers: Vec<usize>,
}

impl Requests {
    /// Requests of the facilities with these tokens.
    pub(crate) fn new(kind: Kind, tokens: &[String]) -> anyhow::Result<Requests> {
        let sum: f64 = (1..=tokens.len()).map(|rank| 1.0 / rank as f64).sum();
        let mut share = 0.0;
        let shares = (1..=tokens.len()).map(|rank| {
            share += 1.0 / rank as f64 / sum;
            share
        });
        let tokens = tokens.iter().map(|token| Ok(format!("Bearer {token}").parse()?));
        Ok(Requests {
            kind,
            fulfilled: Template::new(&order(kind, "tok_visa")),
            declined: Template::new(&order(kind, "tok_insufficient_funds")),
            invalid: Template::new(&with_invalid_claim(order(kind, "tok_visa"))),
            shares: shares.collect(),
            tokens: tokens.collect::<anyhow::Result<_>>()?,
            remembered: Mutex::default(),
        })
    }

    /// Generates the next call.
    pub(crate) fn next(&self) -> Request {
        let mut random = rand::rng();
        let drawn = random.random_range(0..10_000);
        if drawn < REPEATED {
            let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if !remembered.is_empty() {
                return remembered[random.random_range(0..remembered.len())].clone();
            }
        }
        let drawn = random.random_range(0..10_000);
        let (template, expected) = match self.kind {
            _ if drawn < DECLINED => (&self.declined, Expected::Declined),
            Kind::Insured if drawn < DECLINED + INVALID => (&self.invalid, Expected::Invalid),
            _ => (&self.fulfilled, Expected::Fulfilled),
        };
        let point: f64 = random.random();
        let facility = self.shares.partition_point(|share| *share < point);
        Request {
            message: template.fill(),
            authorization: self.tokens[facility.min(self.tokens.len() - 1)].clone(),
            expected,
            answered: None,
        }
    }

    /// Stores an answered request for later repetition.
    pub(crate) fn remember(&self, request: Request, answer: Bytes) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Request {
            answered: Some(answer),
            ..request
        };
        if remembered.len() < REMEMBERED {
            remembered.push(request);
        } else {
            let place = rand::rng().random_range(0..REMEMBERED);
            remembered[place] = request;
        }
    }
}

impl Template {
    fn new(request: &PlaceOrderRequest) -> Template {
        let message = request.encode_to_vec();
        let places = |text: &str| {
            let places = message.windows(text.len()).enumerate();
            let places = places.filter(|(_, window)| *window == text.as_bytes());
            places.map(|(place, _)| place).collect::<Vec<_>>()
        };
        let (ids, numbers) = (places(ID), places(NUMBER));
        Template {
            message,
            ids,
            numbers,
        }
    }

    fn fill(&self) -> Bytes {
        let mut message = self.message.clone();
        let id = Uuid::new_v4();
        let mut text = [0; 36];
        let hyphenated = id.hyphenated().encode_lower(&mut text).as_bytes().to_vec();
        for place in &self.ids {
            message[*place..*place + ID.len()].copy_from_slice(&hyphenated);
        }
        let simple = id.simple().encode_lower(&mut text).as_bytes();
        for place in &self.numbers {
            message[*place..*place + NUMBER.len()].copy_from_slice(simple);
        }
        message.into()
    }
}

const CODES: [(&str, i64); 3] = [("SVC-CONS", 60), ("SVC-XRAY", 40), ("SVC-LAB", 20)];

/// An order over 120 dirhams; of an insured one the insurer is billed 100.
fn order(kind: Kind, payment_method: &str) -> PlaceOrderRequest {
    let line = |(code, amount): (&str, i64)| PlaceOrderLine {
        code: code.to_owned(),
        description: format!("Item {code}"),
        quantity: Some(one()),
        amount: Some(aed(amount)),
    };
    let insured = kind == Kind::Insured;
    PlaceOrderRequest {
        request_id: ID.to_owned(),
        reference: format!("R-{NUMBER}"),
        patient_id: "PT-0001".to_owned(),
        lines: CODES.map(line).to_vec(),
        patient_share: insured.then(|| aed(20)),
        claim: insured.then(claim),
        payment_method: payment_method.to_owned(),
        capture_mode: CaptureMode::Immediate as i32,
        validate_only: false,
    }
}

/// A claim with two principal diagnoses.
fn with_invalid_claim(mut order: PlaceOrderRequest) -> PlaceOrderRequest {
    if let Some(claim) = &mut order.claim {
        claim.diagnoses.push(Diagnosis {
            r#type: DiagnosisType::Principal as i32,
            code: "E78.5".to_owned(),
        });
    }
    order
}

fn claim() -> ClaimDetails {
    let at = |minute: i64| {
        Some(prost_types::Timestamp {
            seconds: 1_741_152_600 + 60 * minute,
            nanos: 0,
        })
    };
    let activity = |(number, (code, amount)): (usize, (&str, i64))| Activity {
        id: format!("A{number}"),
        start_time: at(10),
        r#type: 8,
        code: code.to_owned(),
        quantity: Some(one()),
        // The patient pays 20 of the first.
        net: Some(aed(if number == 0 { amount - 20 } else { amount })),
        clinician: "TEST-CLN-1".to_owned(),
        ..Activity::default()
    };
    ClaimDetails {
        claim_id: format!("CLM-{NUMBER}"),
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
        activities: CODES.into_iter().enumerate().map(activity).collect(),
        ..ClaimDetails::default()
    }
}

fn aed(units: i64) -> Money {
    Money {
        currency_code: "AED".to_owned(),
        units,
        nanos: 0,
    }
}

fn one() -> Decimal {
    Decimal {
        value: "1".to_owned(),
    }
}
