//! One exchange with the processor about an operation, outside of any transaction.

use std::{future::Future, time::Duration};

use tracing::Instrument;
use uuid::Uuid;

use crate::{
    operation::{Kind, Operation, State},
    processor::{Authorize, Capture, NoAnswer, Outcome, Processor, Refund, Sent, Standing, Void},
};

/// How to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approach {
    /// The operation is new: send it.
    Send,
    /// It may have been sent before: ask what became of it, and send it only where that cannot charge again.
    Ask,
}

/// What came of it.
#[derive(Debug)]
pub enum Heard {
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
    let sent = Sent::default();
    let heard = tokio::time::timeout(budget, exchange(processor, operation, approach, &sent))
        .instrument(span)
        .await;
    match heard.unwrap_or(Err(NoAnswer::Timeout(budget))) {
        Ok(heard) => heard,
        Err(error) => {
            let silent = matches!(error, NoAnswer::Timeout(_)) && !sent.give_up();
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
    approach: Approach,
    sent: &Sent,
) -> Result<Heard, NoAnswer> {
    if approach == Approach::Ask {
        match processor.query(operation.id).await? {
            Standing::Settled(outcome) => return Ok(Heard::Settled(outcome)),
            Standing::Processing => return Ok(Heard::Processing),
            Standing::Absent if operation.kind == Kind::Authorize && operation.state == State::Unknown => {
                return close(processor, operation).await;
            }
            Standing::Absent => {}
        }
    }
    send(processor, operation, sent).await.map(Heard::Settled)
}

/// An authorization that was sent and that the processor does not know is never sent again. It may still be on its
/// way, so it is closed at the processor before the payment counts as declined.
async fn close(processor: &dyn Processor, operation: &Operation) -> Result<Heard, NoAnswer> {
    let key = Uuid::new_v5(&operation.id, b"close");
    let void = Void {
        key,
        authorization: operation.id,
    };
    match processor.void(&void, &Sent::default()).await? {
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
    sent: &'a Sent,
) -> impl Future<Output = Result<Outcome, NoAnswer>> + Send + 'a {
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
                processor.authorize(&call, sent).await
            }
            Kind::Capture => {
                let call = Capture {
                    key,
                    authorization,
                    amount,
                };
                processor.capture(&call, sent).await
            }
            Kind::Void | Kind::Expire | Kind::Release => {
                processor.void(&Void { key, authorization }, sent).await
            }
            Kind::Refund => {
                let call = Refund {
                    key,
                    authorization,
                    amount,
                };
                processor.refund(&call, sent).await
            }
        }
    }
}
