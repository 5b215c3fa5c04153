//! One exchange with the processor about an operation, outside of any transaction.

use std::{future::Future, time::Duration};

use tracing::Instrument;
use uuid::Uuid;

use crate::{
    operation::{Kind, Operation, State},
    processor::{Authorize, Capture, NoAnswer, Outcome, Processor, Refund, Standing, Void},
};

/// How to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    /// The operation is new: send it.
    Send,
    /// It may have been sent before: ask what became of it, and send it only where that cannot charge again.
    Ask,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A final answer.
    Settled(Outcome),
    /// The processor is still working on it.
    Processing,
    /// It was sent and not answered.
    Silence,
    /// There was no connection to the processor.
    Unreachable,
    /// The caller's time was over before it could be sent.
    OutOfTime,
}

/// The decline reason of a payment that the processor has never heard of.
const NEVER_ARRIVED: &str = "PROCESSOR_TIMEOUT";

/// Exchanges with the processor for at most `budget`.
pub(crate) async fn with(
    processor: &dyn Processor,
    operation: &Operation,
    approach: Approach,
    budget: Duration,
) -> Heard {
    let span = tracing::info_span!(
        "processor",
        otel.name = format!("processor {}", operation.kind.name()),
        otel.kind = "client",
        operation.id = %operation.id,
        payment.id = %operation.payment_id,
    );
    let mut sent = approach == Approach::Send;
    let heard = tokio::time::timeout(budget, exchange(processor, operation, &mut sent))
        .instrument(span)
        .await;
    match heard.unwrap_or(Err(NoAnswer::Timeout(budget))) {
        Ok(heard) => heard,
        Err(error) => {
            let silent = sent && matches!(error, NoAnswer::Timeout(_));
            let error: &dyn std::error::Error = &error;
            tracing::warn!(operation.id = %operation.id, error.message = error, "the processor has not answered");
            // Without a connection there is no reason to believe that it arrived: it stays to be sent, under its key.
            if silent {
                Heard::Silence
            } else {
                Heard::Unreachable
            }
        }
    }
}

async fn exchange(
    processor: &dyn Processor,
    operation: &Operation,
    sent: &mut bool,
) -> Result<Heard, NoAnswer> {
    if !*sent {
        match processor.query(operation.id).await? {
            Standing::Settled(outcome) => return Ok(Heard::Settled(outcome)),
            Standing::Processing => return Ok(Heard::Processing),
            Standing::Absent if operation.kind == Kind::Authorize && operation.state == State::Unknown => {
                return close(processor, operation).await;
            }
            Standing::Absent => *sent = true,
        }
    }
    send(processor, operation).await.map(Heard::Settled)
}

/// An authorization that was sent and that the processor does not know is never sent again. It may still be on its
/// way, so it is closed at the processor before the payment counts as declined.
async fn close(processor: &dyn Processor, operation: &Operation) -> Result<Heard, NoAnswer> {
    let key = Uuid::new_v5(&operation.id, b"close");
    match processor
        .void(&Void {
            key,
            authorization: operation.id,
        })
        .await?
    {
        Outcome::Approved { .. } => {
            let reason = NEVER_ARRIVED.to_owned();
            Ok(Heard::Settled(Outcome::Refused { reason }))
        }
        Outcome::Refused { .. } => Ok(Heard::Processing),
    }
}

fn send<'a>(
    processor: &'a dyn Processor,
    operation: &'a Operation,
) -> impl Future<Output = Result<Outcome, NoAnswer>> + Send + 'a {
    let (key, authorization, amount) = (operation.id, operation.authorization_id, operation.amount);
    async move {
        match operation.kind {
            Kind::Authorize => {
                let (token, merchant_reference) =
                    (operation.method.clone(), operation.merchant_reference.clone());
                processor
                    .authorize(&Authorize {
                        key,
                        token,
                        amount,
                        merchant_reference,
                    })
                    .await
            }
            Kind::Capture => {
                processor
                    .capture(&Capture {
                        key,
                        authorization,
                        amount,
                    })
                    .await
            }
            Kind::Void | Kind::Expire | Kind::Release => processor.void(&Void { key, authorization }).await,
            Kind::Refund => {
                processor
                    .refund(&Refund {
                        key,
                        authorization,
                        amount,
                    })
                    .await
            }
        }
    }
}
