//! `weft order place`: places an order from options, or from a whole request in JSON.

use std::{fs, io, io::Read as _, path::Path};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use proto::order::v1::{CaptureMode, Order, PlaceOrderRequest};

use super::line;
use crate::{
    clients::Clients,
    failure::{During as _, Failure},
    output,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An item: its code, how many, the price of the whole line, and words; may be given several times
    #[arg(
        long = "line",
        value_name = "CODE:QUANTITY:AMOUNT[:DESCRIPTION]",
        required_unless_present = "request"
    )]
    lines: Vec<String>,
    /// The currency of all amounts, ISO 4217
    #[arg(long, default_value = "AED", value_parser = crate::globals::parse_currency)]
    currency: String,
    /// The patient's number at the facility
    #[arg(long)]
    patient: Option<String>,
    /// The caller's own number of the order
    #[arg(long)]
    reference: Option<String>,
    /// What the patient pays; by default all that the payer does not
    #[arg(long, value_name = "AMOUNT", allow_hyphen_values = true)]
    patient_share: Option<String>,
    /// The claim of an insured order: a file with claims.v1.ClaimDetails in JSON
    #[arg(long, value_name = "FILE")]
    claim: Option<std::path::PathBuf>,
    /// The payment method's token, such as tok_visa; without it the order waits for `weft payment pay`
    #[arg(long)]
    payment_method: Option<String>,
    /// When the share is captured
    #[arg(long, value_enum, default_value_t = Capture::OnFulfilment)]
    capture: Capture,
    /// Only check: keep nothing, whatever `--request` says
    #[arg(long)]
    validate_only: bool,
    /// The whole order.v1.PlaceOrderRequest in JSON, from a file or `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "lines", "claim", "patient_share", "currency", "patient", "reference", "payment_method", "capture",
    ])]
    request: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Capture {
    /// With `weft order fulfil`
    OnFulfilment,
    /// As soon as the order is confirmed
    Immediate,
}

pub(crate) async fn run(clients: &Clients, arguments: Arguments) -> Result<Option<Order>, Failure> {
    let mut request = arguments.into_request()?;
    // `--request-id` overrides the id in the file.
    if clients.is_request_id_given() || request.request_id.is_empty() {
        request.request_id = clients.request_id();
    }
    let only_checked = request.validate_only;
    let request = clients.request(request)?;
    let answer = clients
        .order()
        .place_order(request)
        .await
        .during("order.v1.OrderService/PlaceOrder")?;
    if only_checked {
        eprintln!("only checked: nothing was kept, and no payment method was used");
    }
    Ok(answer.into_inner().order)
}

impl Arguments {
    fn into_request(self) -> Result<PlaceOrderRequest, Failure> {
        if let Some(path) = &self.request {
            let mut request: PlaceOrderRequest = output::from_json(&read(path)?).map_err(Failure::Usage)?;
            request.validate_only |= self.validate_only;
            return Ok(request);
        }
        let lines = self
            .lines
            .iter()
            .map(|text| line::parse_order(text, &self.currency));
        let share = self
            .patient_share
            .as_deref()
            .map(|text| line::parse_money(text, &self.currency));
        let claim = self
            .claim
            .as_deref()
            .map(|path| -> Result<_, Failure> { output::from_json(&read(path)?).map_err(Failure::Usage) });
        Ok(PlaceOrderRequest {
            request_id: String::new(),
            reference: self.reference.unwrap_or_default(),
            patient_id: self.patient.unwrap_or_default(),
            lines: lines.collect::<Result<_, _>>().map_err(Failure::Usage)?,
            patient_share: share.transpose().map_err(Failure::Usage)?,
            claim: claim.transpose()?,
            payment_method: self.payment_method.unwrap_or_default(),
            capture_mode: match self.capture {
                Capture::OnFulfilment => CaptureMode::OnFulfilment.into(),
                Capture::Immediate => CaptureMode::Immediate.into(),
            },
            validate_only: self.validate_only,
        })
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?)
}
