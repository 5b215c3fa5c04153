//! ClaimService: decodes requests, runs use cases and encodes responses.

pub mod decode;
pub mod encode;

use chassis::{Identity, PageTokens, bulk, idempotency, status};
use prost::Message;
use proto::claims::v1::{
    GetClaimAttachmentRequest, GetClaimAttachmentResponse, GetClaimRequest, GetClaimResponse,
    ImportRemittanceHeader, ImportRemittanceRequest, ImportRemittanceResponse, ListClaimsRequest,
    ListClaimsResponse, ListParkedLinesRequest, ListParkedLinesResponse, PrepareClaimRequest,
    PrepareClaimResponse, PrepareClaimsRequest, PrepareClaimsResponse, PrepareClaimsResult,
    ResolveParkedLineRequest, ResolveParkedLineResponse, ResubmitClaimRequest, ResubmitClaimResponse,
    SubmitClaimRequest, SubmitClaimResponse, SubmitClaimsRequest, SubmitClaimsResponse, SubmitClaimsResult,
    WithdrawClaimRequest, WithdrawClaimResponse, claim_service_server::ClaimService,
    import_remittance_request::Part, prepare_claims_result::Result as PrepareClaimResult,
    submit_claims_result::Result as SubmitClaimResult,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    app::App,
    error::Error,
    get_claim, get_claim_attachment, import_remittance, list_claims, list_parked_lines, prepare_claim,
    resolve_parked_line, response, resubmit_claim, submit_claim,
    upload::{Upload, UploadedFile},
    withdraw_claim,
};

/// Serves ClaimService.
#[derive(Clone)]
pub struct Grpc {
    /// Shared dependencies of the use cases.
    pub app: App,
    /// Signs page tokens.
    pub pages: PageTokens,
}

#[tonic::async_trait]
impl ClaimService for Grpc {
    async fn prepare_claim(
        &self,
        request: Request<PrepareClaimRequest>,
    ) -> Result<Response<PrepareClaimResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        respond(prepare_claim::execute(&self.app, &caller.facility, request.into_inner()).await)
    }

    async fn prepare_claims(
        &self,
        request: Request<PrepareClaimsRequest>,
    ) -> Result<Response<PrepareClaimsResponse>, Status> {
        let service = self.clone();
        let handle = move |one| {
            let service = service.clone();
            async move { service.prepare_claim(one).await }
        };
        let outcomes = bulk::execute(request.map(|call| call.requests), handle).await;
        let results = bulk::results(outcomes, |outcome, replayed| PrepareClaimsResult {
            result: Some(outcome.map_or_else(PrepareClaimResult::Error, PrepareClaimResult::Response)),
            replayed,
        });
        Ok(Response::new(PrepareClaimsResponse { results }))
    }

    async fn submit_claim(
        &self,
        request: Request<SubmitClaimRequest>,
    ) -> Result<Response<SubmitClaimResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        respond(submit_claim::execute(&self.app, &caller.facility, request.into_inner()).await)
    }

    async fn submit_claims(
        &self,
        request: Request<SubmitClaimsRequest>,
    ) -> Result<Response<SubmitClaimsResponse>, Status> {
        let service = self.clone();
        let handle = move |one| {
            let service = service.clone();
            async move { service.submit_claim(one).await }
        };
        let outcomes = bulk::execute(request.map(|call| call.requests), handle).await;
        let results = bulk::results(outcomes, |outcome, replayed| SubmitClaimsResult {
            result: Some(outcome.map_or_else(SubmitClaimResult::Error, SubmitClaimResult::Response)),
            replayed,
        });
        Ok(Response::new(SubmitClaimsResponse { results }))
    }

    async fn resubmit_claim(
        &self,
        request: Request<ResubmitClaimRequest>,
    ) -> Result<Response<ResubmitClaimResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        respond(resubmit_claim::execute(&self.app, &caller.facility, request.into_inner()).await)
    }

    async fn withdraw_claim(
        &self,
        request: Request<WithdrawClaimRequest>,
    ) -> Result<Response<WithdrawClaimResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        respond(withdraw_claim::execute(&self.app, &caller.facility, request.into_inner()).await)
    }

    async fn get_claim(
        &self,
        request: Request<GetClaimRequest>,
    ) -> Result<Response<GetClaimResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        let found = get_claim::execute(&self.app, &caller.facility, request.into_inner()).await?;
        Ok(Response::new(found))
    }

    async fn get_claim_attachment(
        &self,
        request: Request<GetClaimAttachmentRequest>,
    ) -> Result<Response<GetClaimAttachmentResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        let found = get_claim_attachment::execute(&self.app, &caller.facility, request.into_inner()).await?;
        Ok(Response::new(found))
    }

    async fn list_claims(
        &self,
        request: Request<ListClaimsRequest>,
    ) -> Result<Response<ListClaimsResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        let page =
            list_claims::execute(&self.app, &self.pages, &caller.facility, request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_parked_lines(
        &self,
        request: Request<ListParkedLinesRequest>,
    ) -> Result<Response<ListParkedLinesResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        let page = list_parked_lines::execute(&self.app, &self.pages, &caller.facility, request.into_inner())
            .await?;
        Ok(Response::new(page))
    }

    async fn resolve_parked_line(
        &self,
        request: Request<ResolveParkedLineRequest>,
    ) -> Result<Response<ResolveParkedLineResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        respond(resolve_parked_line::execute(&self.app, &caller.facility, request.into_inner()).await)
    }

    async fn import_remittance(
        &self,
        request: Request<Streaming<ImportRemittanceRequest>>,
    ) -> Result<Response<ImportRemittanceResponse>, Status> {
        let caller = Identity::from_request(&request)?;
        let (header, file) = receive(&self.app, request.into_inner()).await?;
        respond(import_remittance::execute(&self.app, &caller.facility, header, file).await)
    }
}

fn respond<M: Message + Default>(
    result: Result<response::Response<M>, Error>,
) -> Result<Response<M>, Status> {
    match result? {
        response::Response::New(message) => Ok(Response::new(message)),
        response::Response::Replayed(bytes) => idempotency::replay(&bytes),
    }
}

/// Receives the whole upload before any of it is processed.
async fn receive(
    app: &App,
    mut parts: Streaming<ImportRemittanceRequest>,
) -> Result<(ImportRemittanceHeader, UploadedFile), Error> {
    let mut header = None;
    let mut upload = Upload::create(&app.import_settings)?;
    while let Some(message) = parts.message().await? {
        match (message.part, &header) {
            (Some(Part::Header(first)), None) => header = Some(first),
            (Some(Part::Chunk(chunk)), Some(_)) => upload.write(&chunk).await?,
            (Some(Part::Header(_)), Some(_)) => {
                return Err(status::invalid_field("header", "comes once, at the beginning").into());
            }
            (Some(Part::Chunk(_)) | None, _) => {
                return Err(status::invalid_field("header", "must be the first message").into());
            }
        }
    }
    let header = header.ok_or_else(|| status::invalid_field("header", "must be the first message"))?;
    Ok((header, upload.finish().await?))
}
