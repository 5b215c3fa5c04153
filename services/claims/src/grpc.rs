//! Decode, use case, encode.

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
use uuid::Uuid;

use crate::{
    desk::{Answer, Desk},
    error::Error,
    get_claim, import_remittance, list_claims, list_parked, prepare_claim, resolve_parked, resubmit_claim,
    spool::{Spool, Spooled},
    submit_claim, withdraw_claim,
};

/// Serves ClaimService.
#[derive(Clone)]
pub struct Grpc {
    /// What the use cases work with.
    pub desk: Desk,
    /// Signs page tokens.
    pub pages: PageTokens,
}

#[tonic::async_trait]
impl ClaimService for Grpc {
    async fn prepare_claim(
        &self,
        request: Request<PrepareClaimRequest>,
    ) -> Result<Response<PrepareClaimResponse>, Status> {
        let caller = Identity::of(&request)?;
        answer(prepare_claim::prepare(&self.desk, &caller.facility, request.into_inner()).await)
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
        let outcomes = bulk::carry_out(request.map(|call| call.requests), handle).await;
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
        let caller = Identity::of(&request)?;
        answer(submit_claim::submit(&self.desk, &caller.facility, request.into_inner()).await)
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
        let outcomes = bulk::carry_out(request.map(|call| call.requests), handle).await;
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
        let caller = Identity::of(&request)?;
        answer(resubmit_claim::resubmit(&self.desk, &caller.facility, request.into_inner()).await)
    }

    async fn withdraw_claim(
        &self,
        request: Request<WithdrawClaimRequest>,
    ) -> Result<Response<WithdrawClaimResponse>, Status> {
        let caller = Identity::of(&request)?;
        answer(withdraw_claim::withdraw(&self.desk, &caller.facility, request.into_inner()).await)
    }

    async fn get_claim(
        &self,
        request: Request<GetClaimRequest>,
    ) -> Result<Response<GetClaimResponse>, Status> {
        let caller = Identity::of(&request)?;
        let found = get_claim::get(&self.desk, &caller.facility, request.into_inner()).await?;
        Ok(Response::new(found))
    }

    async fn get_claim_attachment(
        &self,
        request: Request<GetClaimAttachmentRequest>,
    ) -> Result<Response<GetClaimAttachmentResponse>, Status> {
        let caller = Identity::of(&request)?;
        let found = get_claim::attachment(&self.desk, &caller.facility, request.into_inner()).await?;
        Ok(Response::new(found))
    }

    async fn list_claims(
        &self,
        request: Request<ListClaimsRequest>,
    ) -> Result<Response<ListClaimsResponse>, Status> {
        let caller = Identity::of(&request)?;
        let page = list_claims::list(&self.desk, &self.pages, &caller.facility, request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_parked_lines(
        &self,
        request: Request<ListParkedLinesRequest>,
    ) -> Result<Response<ListParkedLinesResponse>, Status> {
        let caller = Identity::of(&request)?;
        let page = list_parked::list(&self.desk, &self.pages, &caller.facility, request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn resolve_parked_line(
        &self,
        request: Request<ResolveParkedLineRequest>,
    ) -> Result<Response<ResolveParkedLineResponse>, Status> {
        let caller = Identity::of(&request)?;
        answer(resolve_parked::resolve(&self.desk, &caller.facility, request.into_inner()).await)
    }

    async fn import_remittance(
        &self,
        request: Request<Streaming<ImportRemittanceRequest>>,
    ) -> Result<Response<ImportRemittanceResponse>, Status> {
        let caller = Identity::of(&request)?;
        let (header, file) = receive(&self.desk, request.into_inner()).await?;
        answer(import_remittance::import(&self.desk, &caller.facility, header, file).await)
    }
}

fn answer<M: Message + Default>(outcome: Result<Answer<M>, Error>) -> Result<Response<M>, Status> {
    match outcome? {
        Answer::New(message) => Ok(Response::new(message)),
        Answer::Repeated(bytes) => idempotency::replay(&bytes),
    }
}

/// Takes the whole upload in before anything is done with it.
async fn receive(
    desk: &Desk,
    mut parts: Streaming<ImportRemittanceRequest>,
) -> Result<(ImportRemittanceHeader, Spooled), Error> {
    let mut header = None;
    let mut spool = Spool::open(&desk.import)?;
    while let Some(message) = parts.message().await? {
        match (message.part, &header) {
            (Some(Part::Header(first)), None) => header = Some(first),
            (Some(Part::Chunk(piece)), Some(_)) => spool.write(&piece).await?,
            (Some(Part::Header(_)), Some(_)) => {
                return Err(status::invalid_field("header", "comes once, at the beginning").into());
            }
            (Some(Part::Chunk(_)) | None, _) => {
                return Err(status::invalid_field("header", "must be the first message").into());
            }
        }
    }
    let header = header.ok_or_else(|| status::invalid_field("header", "must be the first message"))?;
    Ok((header, spool.finish().await?))
}

/// The identifier in a field.
pub(crate) fn uuid(field: &str, text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| status::invalid_field(field, "must be a UUID"))
}
