//! `weft saga …`: lists, shows and retries sagas.

mod intervene;

use clap::Subcommand;
use proto::ops::v1::{
    GetSagaRequest, GetSagaResponse, ListSagasRequest, ListSagasResponse, RetrySagaRequest, Saga, SagaState,
    SagaStepState,
};
use uuid::Uuid;

use crate::{
    clients::Clients,
    enum_value::EnumValue,
    failure::{During as _, Failure},
    globals::{self, Format, Globals},
    open_work,
    order_arg::OrderArg,
    output::{self, Table, short_name, timestamp},
    paging::{self, Limit},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List sagas, newest first
    List {
        /// Only sagas in this state
        #[arg(long, value_parser = EnumValue::new(SagaState::as_str_name))]
        state: Option<SagaState>,
        /// Only sagas that need a person: the same as `--state STUCK`
        #[arg(long, conflicts_with = "state")]
        stuck: bool,
        /// Only sagas of this order
        #[arg(long)]
        order: Option<OrderArg>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show a saga with all of its steps
    Show {
        /// The saga's id
        #[arg(value_parser = globals::parse_uuid)]
        saga: Uuid,
    },
    /// Wake a saga that is stuck or waiting, with its attempts counted from zero
    Retry {
        /// The saga's id
        #[arg(value_parser = globals::parse_uuid)]
        saga: Uuid,
    },
    /// Leave out the step that a stuck saga is at, and go on with the next one
    Skip(intervene::Arguments),
    /// End a stuck saga: what was left of it was done by hand
    ForceComplete(intervene::Arguments),
}

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    match command {
        Command::List {
            state,
            stuck,
            order,
            limit,
        } => {
            let state = if stuck { Some(SagaState::Stuck) } else { state };
            let order = OrderArg::resolve_optional(order, &clients).await?;
            list(&clients, globals.output, state, order, limit).await
        }
        Command::Show { saga } => {
            clients.check_timeout::<GetSagaRequest>()?;
            print(globals.output, Some(get(&clients, saga).await?))
        }
        Command::Skip(arguments) => intervene::skip(&clients, globals.output, arguments).await,
        Command::ForceComplete(arguments) => {
            intervene::force_complete(&clients, globals.output, arguments).await
        }
        Command::Retry { saga } => {
            let request = RetrySagaRequest {
                request_id: clients.request_id(),
                id: saga.to_string(),
            };
            let answer = clients.saga().retry_saga(clients.request(request)?).await;
            print(
                globals.output,
                answer.during("ops.v1.SagaService/RetrySaga")?.into_inner().saga,
            )
        }
    }
}

async fn get(clients: &Clients, saga: Uuid) -> Result<Saga, Failure> {
    let request = GetSagaRequest { id: saga.to_string() };
    let answer = clients.saga().get_saga(clients.untracked_request(request)?).await;
    let answer = answer.during("ops.v1.SagaService/GetSaga")?.into_inner();
    Ok(answer.saga.unwrap_or_default())
}

async fn list(
    clients: &Clients,
    format: Format,
    wanted: Option<SagaState>,
    order: Option<String>,
    limit: Limit,
) -> Result<(), Failure> {
    let listed = paging::collect(limit, async |page_size, page_token| {
        let request = ListSagasRequest {
            page_size,
            page_token,
            state: wanted.unwrap_or_default().into(),
            order_id: order.clone().unwrap_or_default(),
        };
        let answer = clients.saga().list_sagas(clients.request(request)?).await;
        let page = answer.during("ops.v1.SagaService/ListSagas")?.into_inner();
        Ok((page.sagas, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        let response = ListSagasResponse {
            sagas: listed.rows,
            next_page_token: listed.next_page_token,
        };
        return output::print_json(&output::json(&response)?);
    }
    let heading = [
        "ID",
        "KIND",
        "STATE",
        "STEP",
        ">ATTEMPTS",
        "ORDER",
        "CREATED",
        "REASON",
    ];
    let mut table = Table::new(
        heading,
        output::no_rows("sagas", order.is_some() || wanted.is_some()),
    );
    for saga in &listed.rows {
        table.row([
            saga.id.clone(),
            saga.kind.clone(),
            short_name(saga.state().as_str_name()),
            saga.current_step.clone(),
            saga.attempts.to_string(),
            saga.order_id.clone(),
            timestamp(saga.create_time.as_ref()),
            saga.reason.clone(),
        ]);
    }
    print!("{table}");
    listed.mention_more();
    if wanted == Some(SagaState::Stuck) {
        if let Some(first) = listed.rows.first() {
            eprintln!("next: weft saga show {}", first.id);
        }
        // A stuck saga may wait for an event that is a dead letter.
        if let Some(open @ 1..) = open_work::count_dead_letters(clients).await {
            eprintln!("beside them: {open} open dead letters, weft dlq list");
        }
    }
    Ok(())
}

fn print(format: Format, saga: Option<Saga>) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(&output::json(&GetSagaResponse { saga })?);
    }
    let saga = saga.unwrap_or_default();
    let goes_on = matches!(
        saga.state(),
        SagaState::Running | SagaState::Waiting | SagaState::Compensating
    );
    output::print_fields(&[
        ("saga", saga.id.clone()),
        ("kind", saga.kind.clone()),
        ("order", saga.order_id.clone()),
        ("state", short_name(saga.state().as_str_name())),
        ("at", saga.current_step.clone()),
        ("attempts", saga.attempts.to_string()),
        ("reason", saga.reason.clone()),
        (
            "tried next",
            timestamp(saga.wake_time.as_ref().filter(|_| goes_on)),
        ),
        (
            "stuck after",
            timestamp(saga.deadline_time.as_ref().filter(|_| goes_on)),
        ),
        ("began", timestamp(saga.create_time.as_ref())),
        ("changed", timestamp(saga.update_time.as_ref())),
    ]);
    let mut steps = Table::new(
        ["STEP", "", "STATE", ">ATTEMPTS", "BEGUN", "RESULT"],
        "no steps yet",
    );
    for step in &saga.steps {
        let mark = match (step.compensation, step.pivot) {
            (true, _) => "undone",
            (false, true) => "pivot",
            (false, false) => "",
        };
        steps.row([
            step.name.clone(),
            mark.to_owned(),
            short_name(
                SagaStepState::try_from(step.state)
                    .unwrap_or_default()
                    .as_str_name(),
            ),
            step.attempts.to_string(),
            timestamp(step.create_time.as_ref()),
            step.result.clone(),
        ]);
    }
    print!("\n{steps}");
    for action in &saga.actions {
        println!(
            "{} {} {} at {}{}",
            timestamp(action.create_time.as_ref()),
            action.actor,
            short_name(action.kind().as_str_name())
                .to_lowercase()
                .replace('_', "-"),
            action.step,
            if action.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", action.reason)
            },
        );
    }
    if saga.state() == SagaState::Stuck {
        eprintln!(
            "next: weft saga retry {0}   (once the cause is gone; else weft saga skip {0} --reason ..., or \
             force-complete)",
            saga.id
        );
    }
    Ok(())
}
