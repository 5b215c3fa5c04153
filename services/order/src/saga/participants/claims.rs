//! Calls of the claims service.

use chassis::Tasks;
use mesh::{Channel, Context};
use proto::claims::v1::{
    Claim, ClaimDetails, ClaimState, GetClaimRequest, PrepareClaimRequest, SubmitClaimRequest,
    WithdrawClaimRequest, claim_service_client::ClaimServiceClient,
};
use tonic::{Code, Status};
use uuid::Uuid;

use super::{
    super::outcome,
    bulk::{Calls, Prepare, Submit},
    done, internal, malformed,
};
use crate::{
    order::{Failure, Order},
    saga::{Effect, Outcome, ServiceCredentials},
};

#[derive(Clone)]
pub(super) struct ClaimsClient {
    client: ClaimServiceClient<Channel>,
    prepare: Calls<Prepare>,
    submit: Calls<Submit>,
}

impl ClaimsClient {
    pub(super) fn new(channel: Channel, credentials: &ServiceCredentials, tasks: &Tasks) -> ClaimsClient {
        let client = ClaimServiceClient::new(channel);
        ClaimsClient {
            prepare: Calls::new(Prepare(client.clone()), credentials, tasks),
            submit: Calls::new(Submit(client.clone()), credentials, tasks),
            client,
        }
    }

    pub(super) async fn check(&self, context: &Context, details: ClaimDetails) -> Result<(), Status> {
        let request = PrepareClaimRequest {
            request_id: Uuid::now_v7().to_string(),
            order_id: Uuid::now_v7().to_string(),
            details: Some(details),
            validate_only: true,
        };
        self.client
            .clone()
            .prepare_claim(context.request(request))
            .await
            .map(drop)
    }

    /// Prepares the claim. An invalid claim is refused with all its violations.
    pub(super) async fn prepare(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        details: ClaimDetails,
    ) -> Result<Outcome, Status> {
        let request = PrepareClaimRequest {
            request_id: key.to_string(),
            order_id: order.id.to_string(),
            details: Some(details),
            validate_only: false,
        };
        match self
            .prepare
            .call(context, (&order.facility, order.id), request)
            .await
        {
            Ok(answer) => {
                let id = answer
                    .into_inner()
                    .claim
                    .and_then(|claim| Uuid::parse_str(&claim.id).ok());
                Ok(Outcome::Done(Effect::ClaimPrepared(
                    id.ok_or_else(|| malformed("claim"))?,
                )))
            }
            Err(status) if status.code() == Code::InvalidArgument && !outcome::is_transient(&status) => {
                let violations = outcome::claim_violations(&status);
                let failure = Failure {
                    reason: "CLAIM_INVALID".to_owned(),
                    message: outcome::describe_violations(&violations),
                    violations,
                };
                Ok(Outcome::Refused { failure, undo: false })
            }
            Err(status) => Err(status),
        }
    }

    /// Submits the claim. A submission that the post office rejects counts as done: a person has to review it.
    pub(super) async fn submit(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
    ) -> Result<Outcome, Status> {
        let id = order
            .claim_id
            .ok_or_else(|| internal("the order's claim is not known"))?;
        let request = SubmitClaimRequest {
            request_id: key.to_string(),
            id: id.to_string(),
        };
        let claim = match self
            .submit
            .call(context, (&order.facility, order.id), request)
            .await
        {
            Ok(answer) => answer.into_inner().claim.ok_or_else(|| malformed("claim"))?,
            // The claim was submitted manually: nothing is left to do.
            Err(refused) if outcome::is_refusal(&refused) => {
                let claim = self.get(context, id).await?;
                match claim.state() {
                    ClaimState::Submitted
                    | ClaimState::Accepted
                    | ClaimState::Rejected
                    | ClaimState::Resubmitted => claim,
                    ClaimState::Unspecified
                    | ClaimState::Draft
                    | ClaimState::Validated
                    | ClaimState::Withdrawn => return Err(refused),
                }
            }
            Err(status) => return Err(status),
        };
        let rejection = (claim.state() == ClaimState::Rejected).then_some(claim.rejection);
        Ok(Outcome::Done(Effect::ClaimSubmitted { rejection }))
    }

    async fn get(&self, context: &Context, id: Uuid) -> Result<Claim, Status> {
        let request = GetClaimRequest {
            id: id.to_string(),
            ..GetClaimRequest::default()
        };
        let answer = self.client.clone().get_claim(context.request(request)).await?;
        answer.into_inner().claim.ok_or_else(|| malformed("claim"))
    }

    pub(super) async fn withdraw(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        reason: &str,
    ) -> Result<Outcome, Status> {
        let request = WithdrawClaimRequest {
            request_id: key.to_string(),
            order_id: order.id.to_string(),
            reason: reason.to_owned(),
        };
        self.client
            .clone()
            .withdraw_claim(context.request(request))
            .await?;
        Ok(done())
    }
}
