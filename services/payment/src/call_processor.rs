//! Calls the card processor for one operation, outside of any transaction.

use std::{future::Future, time::Duration};

use tracing::Instrument;
use uuid::Uuid;

use crate::{
    operation::{Kind, Operation, State},
    processor::{Authorize, CallError, CallStatus, Capture, Dispatch, Outcome, Processor, Refund, Void},
};

/// Which call comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The operation is new: send it.
    Send,
    /// The operation may have been sent before: query its status, and send it only if that cannot charge twice.
    Query,
}

/// The result of a call.
#[derive(Debug)]
pub enum ProcessorReply {
    /// The final outcome.
    Completed(Outcome),
    /// The processor has not finished the operation yet.
    Processing,
    /// The call was sent, and no answer came in time.
    TimedOut,
    /// There was no connection to the processor, and nothing was sent.
    Unreachable,
    /// The caller's deadline left no time to send the call.
    DeadlineExceeded,
}

/// The decline reason of a payment whose authorization never reached the processor.
const NEVER_ARRIVED: &str = "PROCESSOR_TIMEOUT";

/// Calls the processor for at most `budget`.
pub(crate) async fn call(
    processor: &dyn Processor,
    operation: &Operation,
    mode: Mode,
    budget: Duration,
) -> ProcessorReply {
    let span = tracing::info_span!(
        "processor",
        otel.name = format!("processor {}", operation.kind.name()),
        otel.kind = "client",
        operation.id = %operation.id,
        payment.id = %operation.payment_id,
    );
    let dispatch = Dispatch::default();
    let reply = tokio::time::timeout(budget, query_or_send(processor, operation, mode, &dispatch))
        .instrument(span)
        .await;
    match reply.unwrap_or(Err(CallError::Timeout(budget))) {
        Ok(reply) => reply,
        Err(error) => {
            let is_sent = matches!(error, CallError::Timeout(_)) && !dispatch.cancel();
            let error: &dyn std::error::Error = &error;
            tracing::warn!(operation.id = %operation.id, error.message = error, "processor call failed");
            // A call that was not sent cannot have had an effect: it can be sent later under the same key.
            if is_sent {
                ProcessorReply::TimedOut
            } else {
                ProcessorReply::Unreachable
            }
        }
    }
}

async fn query_or_send(
    processor: &dyn Processor,
    operation: &Operation,
    mode: Mode,
    dispatch: &Dispatch,
) -> Result<ProcessorReply, CallError> {
    if mode == Mode::Query {
        match processor.query(operation.id).await? {
            CallStatus::Completed(outcome) => return Ok(ProcessorReply::Completed(outcome)),
            CallStatus::Processing => return Ok(ProcessorReply::Processing),
            CallStatus::NotFound
                if operation.kind == Kind::Authorize && operation.state == State::Unknown =>
            {
                return close_authorization(processor, operation).await;
            }
            CallStatus::NotFound => {}
        }
    }
    send(processor, operation, dispatch)
        .await
        .map(ProcessorReply::Completed)
}

/// Closes an authorization that was sent and that the processor does not know. It is never sent again. Because it
/// may still arrive, it is voided at the processor before the payment counts as declined.
async fn close_authorization(
    processor: &dyn Processor,
    operation: &Operation,
) -> Result<ProcessorReply, CallError> {
    let key = Uuid::new_v5(&operation.id, b"close");
    let void = Void {
        key,
        authorization: operation.id,
    };
    match processor.void(&void, &Dispatch::default()).await? {
        Outcome::Approved { .. } => {
            let reason = NEVER_ARRIVED.to_owned();
            Ok(ProcessorReply::Completed(Outcome::Refused { reason }))
        }
        Outcome::Refused { .. } => Ok(ProcessorReply::Processing),
    }
}

fn send<'a>(
    processor: &'a dyn Processor,
    operation: &'a Operation,
    dispatch: &'a Dispatch,
) -> impl Future<Output = Result<Outcome, CallError>> + Send + 'a {
    let (key, authorization, amount) = (operation.id, operation.authorization_id, operation.amount);
    async move {
        match operation.kind {
            Kind::Authorize => {
                let (token, merchant_reference) =
                    (operation.method.clone(), operation.merchant_reference.clone());
                let call = Authorize {
                    key,
                    token,
                    amount,
                    merchant_reference,
                };
                processor.authorize(&call, dispatch).await
            }
            Kind::Capture => {
                let call = Capture {
                    key,
                    authorization,
                    amount,
                };
                processor.capture(&call, dispatch).await
            }
            Kind::Void | Kind::Expire | Kind::Release => {
                processor.void(&Void { key, authorization }, dispatch).await
            }
            Kind::Refund => {
                let call = Refund {
                    key,
                    authorization,
                    amount,
                };
                processor.refund(&call, dispatch).await
            }
        }
    }
}
