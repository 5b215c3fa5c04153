//! Fixture for the claims service: a stack with only that service, and files as payers write them.

use std::fmt::Write as _;

use proto::{
    claims::v1::{
        Activity, Claim, ClaimDetails, GetClaimRequest, ImportRemittanceHeader, ImportRemittanceRequest,
        ImportRemittanceResponse, ListParkedLinesRequest, ParkedLine, ParkedReason, ParkedResolution,
        PrepareClaimRequest, PrepareClaimResponse, RemittanceReport, ResolveParkedLineRequest,
        SubmitClaimRequest, SubmitClaimResponse, claim_service_client::ClaimServiceClient,
        import_remittance_request::Part,
    },
    google::r#type::Money,
};
use tests::{Options, Service, Stack, stack::Client};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::samples;

/// The claims service with a client of a biller of one facility.
pub(crate) struct Fixture {
    pub(crate) stack: Stack,
    pub(crate) claims: ClaimServiceClient<Client>,
}

impl Fixture {
    pub(crate) async fn start() -> Fixture {
        Fixture::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Fixture {
        let stack = Stack::with(options.only(&[Service::Claims])).await;
        let claims = connect(&stack, "al-noor");
        Fixture { stack, claims }
    }

    /// A client of another facility.
    pub(crate) fn elsewhere(&self) -> ClaimServiceClient<Client> {
        connect(&self.stack, "al-qamar")
    }

    /// A claim that the post office has accepted for processing.
    pub(crate) async fn filed(&self, details: ClaimDetails) -> Claim {
        filed(&self.claims, details).await
    }

    /// Sends a file under a fresh request id.
    pub(crate) async fn import(&self, document: &str) -> Result<RemittanceReport, Status> {
        let sent = import(&self.claims, &Uuid::new_v4().to_string(), document).await?;
        Ok(sent.report.unwrap())
    }

    pub(crate) async fn get(&self, id: &str) -> Claim {
        let request = GetClaimRequest {
            id: id.to_owned(),
            ..GetClaimRequest::default()
        };
        self.claims
            .clone()
            .get_claim(request)
            .await
            .unwrap()
            .into_inner()
            .claim
            .unwrap()
    }

    pub(crate) async fn count(&self, query: &str) -> i64 {
        self.stack.database(Service::Claims).count(query).await
    }
}

fn connect(stack: &Stack, facility: &str) -> ClaimServiceClient<Client> {
    let token = stack.token(facility, &["clerk", "biller", "viewer"]);
    ClaimServiceClient::new(stack.connect(Service::Claims, &token))
}

pub(crate) fn prepare(details: ClaimDetails) -> PrepareClaimRequest {
    PrepareClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: Uuid::new_v4().to_string(),
        details: Some(details),
        validate_only: false,
    }
}

pub(crate) fn submit(claim: &Claim) -> SubmitClaimRequest {
    SubmitClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        id: claim.id.clone(),
    }
}

pub(crate) async fn filed(claims: &ClaimServiceClient<Client>, details: ClaimDetails) -> Claim {
    let mut claims = claims.clone();
    let PrepareClaimResponse { claim } = claims.prepare_claim(prepare(details)).await.unwrap().into_inner();
    let SubmitClaimResponse { claim } = claims
        .submit_claim(submit(&claim.unwrap()))
        .await
        .unwrap()
        .into_inner();
    claim.unwrap()
}

/// Imports a file in small chunks.
pub(crate) async fn import(
    claims: &ClaimServiceClient<Client>,
    request_id: &str,
    document: &str,
) -> Result<ImportRemittanceResponse, Status> {
    import_bytes(claims, request_id, "advice.xml", document.as_bytes()).await
}

/// Imports the bytes of a file in small chunks.
pub(crate) async fn import_bytes(
    claims: &ClaimServiceClient<Client>,
    request_id: &str,
    file_name: &str,
    document: &[u8],
) -> Result<ImportRemittanceResponse, Status> {
    let header = ImportRemittanceHeader {
        request_id: request_id.to_owned(),
        file_name: file_name.to_owned(),
    };
    let pieces = document.chunks(1_000).map(|piece| Part::Chunk(piece.to_vec()));
    let parts: Vec<ImportRemittanceRequest> = std::iter::once(Part::Header(header))
        .chain(pieces)
        .map(|part| ImportRemittanceRequest { part: Some(part) })
        .collect();
    let sent = claims
        .clone()
        .import_remittance(tokio_stream::iter(parts))
        .await?;
    Ok(sent.into_inner())
}

/// The claim of the five files: three activities over 150, 100 and 150 dirhams.
pub(crate) fn example_claim() -> ClaimDetails {
    let mut details = samples::claim("CLM-0001");
    details.gross = Some(samples::aed(500));
    details.patient_share = Some(samples::aed(100));
    details.net = Some(samples::aed(400));
    let model = details.activities.remove(0);
    details.activities = [("A1", 150), ("A2", 100), ("A3", 150)]
        .map(|(id, net)| Activity {
            id: id.to_owned(),
            net: Some(samples::aed(net)),
            ..model.clone()
        })
        .to_vec();
    details
}

/// A payer's file that contains these claim elements.
pub(crate) fn file(claims: &[String]) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Remittance.Advice><Header><SenderID>TEST-TPA-1</SenderID>\
         <ReceiverID>TEST-FAC-1</ReceiverID><TransactionDate>20/03/2025 12:00</TransactionDate>\
         <RecordCount>{}</RecordCount><DispositionFlag>PRODUCTION</DispositionFlag></Header>{}</Remittance.Advice>",
        claims.len(),
        claims.concat(),
    )
}

/// The claim element of a remittance: (activity, net, payment, denial code) by line.
pub(crate) fn advice(claim_id: &str, lines: &[(&str, &str, &str, &str)]) -> String {
    let mut text = format!(
        "<Claim><ID>{claim_id}</ID><IDPayer>PYR-{claim_id}</IDPayer><ProviderID>TEST-FAC-1</ProviderID>\
         <PaymentReference>CHQ-1</PaymentReference><DateSettlement>20/03/2025 00:00</DateSettlement>"
    );
    for (activity, net, payment, denial_code) in lines {
        let denial_code = if denial_code.is_empty() {
            String::new()
        } else {
            format!("<DenialCode>{denial_code}</DenialCode>")
        };
        write!(
            text,
            "<Activity><ID>{activity}</ID><Start>05/03/2025 09:40</Start><Type>8</Type><Code>SVC-CONS</Code>\
             <Quantity>1</Quantity><Net>{net}</Net><Clinician>TEST-CLN-1</Clinician>\
             <PaymentAmount>{payment}</PaymentAmount>{denial_code}</Activity>"
        )
        .unwrap();
    }
    text + "</Claim>"
}

/// The fils of an amount, which must be set.
pub(crate) fn fils(amount: Option<&Money>) -> i64 {
    money::Money::try_from(amount.expect("the amount is there"))
        .unwrap()
        .minor()
}

/// The violations of a refused request, as (field, rule).
pub(crate) fn violations(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_error_details();
    let named = details
        .bad_request()
        .expect("the fields are named")
        .field_violations
        .iter();
    named
        .map(|violation| {
            let rule = violation.description.split(':').next().unwrap_or_default();
            (violation.field.clone(), rule.to_owned())
        })
        .collect()
}

/// The reason of a status.
pub(crate) fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

pub(crate) async fn parked(claims: &ClaimServiceClient<Client>, reason: ParkedReason) -> Vec<ParkedLine> {
    let request = ListParkedLinesRequest {
        page_size: 2,
        reason: reason.into(),
        ..ListParkedLinesRequest::default()
    };
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListParkedLinesRequest {
            page_token,
            ..request.clone()
        };
        let page = claims
            .clone()
            .list_parked_lines(request)
            .await
            .unwrap()
            .into_inner();
        all.extend(page.lines);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

pub(crate) async fn resolve(
    claims: &ClaimServiceClient<Client>,
    id: i64,
    resolution: ParkedResolution,
) -> Result<Option<Claim>, Status> {
    let request = ResolveParkedLineRequest {
        request_id: Uuid::new_v4().to_string(),
        id,
        resolution: resolution.into(),
        reason: "the payer has confirmed it".to_owned(),
    };
    let answer = claims.clone().resolve_parked_line(request).await?;
    Ok(answer.into_inner().claim)
}
