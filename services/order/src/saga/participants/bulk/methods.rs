//! The methods that have a variant for many requests.

use chassis::{
    bulk::{self, Outcome},
    idempotency,
};
use mesh::Channel;
use proto::{
    claims::v1::{
        PrepareClaimRequest, PrepareClaimResponse, PrepareClaimsRequest, SubmitClaimRequest,
        SubmitClaimResponse, SubmitClaimsRequest, claim_service_client::ClaimServiceClient,
        prepare_claims_result::Result as Prepared, submit_claims_result::Result as Submitted,
    },
    payment::v1::{
        AuthorizePaymentRequest, AuthorizePaymentResponse, AuthorizePaymentsRequest,
        authorize_payments_result::Result as Authorized, payment_service_client::PaymentServiceClient,
    },
};
use tonic::{Request, Response, Status};

use super::Method;

/// A method and its variant: the client, the two method names, and the messages.
macro_rules! method {
    ($(#[$doc:meta])* $name:ident($client:ident, $one:ident, $several:ident): $request:ident, $response:ident,
     $requests:ident, $result:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub(in super::super) struct $name(pub(in super::super) $client<Channel>);

        impl Method for $name {
            type Request = $request;
            type Response = $response;

            async fn call_one(&self, request: Request<$request>) -> Outcome<$response> {
                self.0.clone().$one(request).await
            }

            async fn call_many(
                &self,
                requests: Request<Vec<$request>>,
            ) -> Result<Vec<Outcome<$response>>, Status> {
                let requests = requests.map(|requests| $requests { requests });
                let answer = self.0.clone().$several(requests).await?.into_inner();
                let outcomes = answer.results.into_iter().map(|one| match one.result {
                    Some($result::Response(response)) if one.replayed => Ok(idempotency::replayed(response)),
                    Some($result::Response(response)) => Ok(Response::new(response)),
                    Some($result::Error(error)) => Err(bulk::from_message(&error)),
                    None => Err(super::super::malformed("result")),
                });
                Ok(outcomes.collect())
            }
        }
    };
}

method! {
    /// AuthorizePayment and AuthorizePayments.
    Authorize(PaymentServiceClient, authorize_payment, authorize_payments): AuthorizePaymentRequest,
    AuthorizePaymentResponse, AuthorizePaymentsRequest, Authorized
}

method! {
    /// PrepareClaim and PrepareClaims.
    Prepare(ClaimServiceClient, prepare_claim, prepare_claims): PrepareClaimRequest, PrepareClaimResponse,
    PrepareClaimsRequest, Prepared
}

method! {
    /// SubmitClaim and SubmitClaims.
    Submit(ClaimServiceClient, submit_claim, submit_claims): SubmitClaimRequest, SubmitClaimResponse,
    SubmitClaimsRequest, Submitted
}
