//! The sandbox's records.

use std::time::Duration;

use chassis::{
    Tasks,
    batch::{Batcher, Limits, SubmitError},
};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    Card,
    authorizations::{Authorization, AuthorizationRequest, InsertAuthorizations, to_outcome},
    operations::{CardOperation, ExecuteOperations, OperationRequest},
};
use crate::processor::{Authorize, CallError, CallStatus, Dispatch, Outcome};

/// The records of all calls. Cheap to clone.
#[derive(Clone)]
pub(super) struct Records {
    pool: PgPool,
    authorizations: Batcher<InsertAuthorizations>,
    operations: Batcher<ExecuteOperations>,
}

impl Records {
    pub(super) fn new(pool: PgPool, tasks: &Tasks) -> Self {
        let (authorizations, operations) = (
            InsertAuthorizations { pool: pool.clone() },
            ExecuteOperations { pool: pool.clone() },
        );
        Self {
            pool,
            authorizations: Batcher::new(authorizations, Limits::default(), tasks.clone()),
            operations: Batcher::new(operations, Limits::default(), tasks.clone()),
        }
    }

    /// Inserts an authorization, or finds the one with the same key.
    pub(super) async fn authorize(
        &self,
        call: &Authorize,
        card: Card,
        delay: Duration,
        dispatch: &Dispatch,
    ) -> Result<Authorization, CallError> {
        let request = AuthorizationRequest::new(call, card, delay, dispatch);
        let authorization = self.authorizations.submit(request, None).await?;
        authorization.ok_or(CallError::Timeout(Duration::ZERO))
    }

    /// Executes an operation on an authorization, once per key.
    pub(super) async fn execute(
        &self,
        operation: CardOperation,
        dispatch: &Dispatch,
    ) -> Result<(Outcome, Option<Card>), CallError> {
        let request = OperationRequest {
            operation,
            dispatch: dispatch.clone(),
        };
        let result = self.operations.submit(request, None).await?;
        result.ok_or(CallError::Timeout(Duration::ZERO))
    }

    /// The status of the call with this key.
    pub(super) async fn call_status(&self, key: Uuid) -> Result<CallStatus, CallError> {
        let found = sqlx::query!(
            r#"select reference as "reference!", outcome as "outcome!", reason as "reason!", pending as "pending!"
               from (
                   select reference, outcome, reason, answers_at > clock_timestamp() as pending
                   from sandbox.card_authorization where key = $1
                   union all
                   select key, outcome, reason, answers_at > clock_timestamp()
                   from sandbox.card_operation where key = $1
               ) calls"#,
            key.to_string(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(match found {
            None => CallStatus::NotFound,
            Some(found) if found.pending => CallStatus::Processing,
            Some(found) => match to_outcome(found.reference, &found.outcome, found.reason) {
                Some(outcome) => CallStatus::Completed(outcome),
                None => CallStatus::NotFound,
            },
        })
    }
}

impl From<SubmitError<sqlx::Error>> for CallError {
    fn from(refused: SubmitError<sqlx::Error>) -> Self {
        match refused {
            SubmitError::Failed(error) => error.into(),
            refused => Self::Unreachable(Box::new(refused)),
        }
    }
}
