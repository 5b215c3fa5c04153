//! `weft saga skip` and `weft saga force-complete`: interventions in a saga that a retry cannot complete.

use clap::Args;
use proto::ops::v1::{ForceCompleteSagaRequest, Saga, SagaState, SkipSagaStepRequest};
use uuid::Uuid;

use super::{get, print};
use crate::{
    clients::Clients,
    confirm::Confirmation,
    failure::{During as _, Failure},
    globals::{self, Format},
    output::short_name,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The saga's id
    #[arg(value_parser = globals::parse_uuid)]
    saga: Uuid,
    /// Why, 3 to 500 characters; kept with the saga and in the order's remarks
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Arguments {
    /// Refuses a saga without a current step before the confirmation. A repeated request is sent anyway, because
    /// the service returns its first answer again.
    fn check_step(&self, saga: &Saga, is_repeated: bool) -> Result<(), Failure> {
        if !saga.current_step.is_empty() || is_repeated {
            return Ok(());
        }
        Err(Failure::Other(anyhow::anyhow!(
            "saga {} is {}: there is no step that could be left out or done by hand",
            saga.id,
            short_name(saga.state().as_str_name()),
        )))
    }
}

pub(super) async fn skip(clients: &Clients, format: Format, arguments: Arguments) -> Result<(), Failure> {
    clients.check_timeout::<SkipSagaStepRequest>()?;
    let seen = get(clients, arguments.saga).await?;
    arguments.check_step(&seen, clients.is_request_id_given())?;
    arguments.confirmation.ask(&format!(
        "{} will not be {}, and its order says so from then on. This cannot be undone.",
        seen.current_step,
        if is_compensating(&seen) {
            "undone"
        } else {
            "carried out"
        },
    ))?;
    let request = SkipSagaStepRequest {
        request_id: clients.request_id(),
        id: seen.id,
        reason: arguments.reason,
        step: seen.current_step,
    };
    let answer = clients.saga().skip_saga_step(clients.request(request)?).await;
    let answer = answer.during("ops.v1.SagaService/SkipSagaStep")?.into_inner();
    print_outcome(format, answer.saga)
}

pub(super) async fn force_complete(
    clients: &Clients,
    format: Format,
    arguments: Arguments,
) -> Result<(), Failure> {
    clients.check_timeout::<ForceCompleteSagaRequest>()?;
    let seen = get(clients, arguments.saga).await?;
    arguments.check_step(&seen, clients.is_request_id_given())?;
    arguments.confirmation.ask(&format!(
        "You state that {} and all that follows was done by hand; the saga ends. This cannot be undone.",
        seen.current_step,
    ))?;
    let request = ForceCompleteSagaRequest {
        request_id: clients.request_id(),
        id: seen.id,
        reason: arguments.reason,
        step: seen.current_step,
    };
    let answer = clients
        .saga()
        .force_complete_saga(clients.request(request)?)
        .await;
    let answer = answer
        .during("ops.v1.SagaService/ForceCompleteSaga")?
        .into_inner();
    print_outcome(format, answer.saga)
}

fn is_compensating(saga: &Saga) -> bool {
    saga.steps.last().is_some_and(|step| step.compensation)
}

/// Prints the saga after the intervention and the next command.
fn print_outcome(format: Format, saga: Option<Saga>) -> Result<(), Failure> {
    let after = saga.clone().unwrap_or_default();
    print(format, saga)?;
    match after.state() {
        SagaState::Completed | SagaState::Compensated => {
            eprintln!(
                "next: weft order get {}   (its remarks show what is left to do)",
                after.order_id
            );
        }
        _ => eprintln!("next: weft saga show {}", after.id),
    }
    Ok(())
}
