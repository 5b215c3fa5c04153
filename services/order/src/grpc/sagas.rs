//! SagaService.

use chassis::{Identity, idempotency::Key, page};
use proto::ops::v1::{
    self as wire, ForceCompleteSagaRequest, ForceCompleteSagaResponse, GetSagaRequest, GetSagaResponse,
    ListSagasRequest, ListSagasResponse, RetrySagaRequest, RetrySagaResponse, SkipSagaStepRequest,
    SkipSagaStepResponse, saga_service_server::SagaService,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Grpc, context, decode, encode::timestamp, encode_response, uuid};
use crate::{
    operators::{
        intervene, retry,
        show::{self, SagaView},
    },
    request,
    saga::{Intervention, OperatorNote, Saga, State, StepEnding},
    store::{saga_actions, saga_steps, sagas::Filter},
};

#[tonic::async_trait]
impl SagaService for Grpc {
    async fn get_saga(&self, request: Request<GetSagaRequest>) -> Result<Response<GetSagaResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let id = uuid("id", &request.get_ref().id)?;
        let view = show::get(&self.app, &identity.facility, id).await?;
        Ok(Response::new(GetSagaResponse {
            saga: Some(saga(&view)),
        }))
    }

    async fn list_sagas(
        &self,
        request: Request<ListSagasRequest>,
    ) -> Result<Response<ListSagasResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let request = request.into_inner();
        let filter = Filter {
            state: State::from_name(
                request
                    .state()
                    .as_str_name()
                    .trim_start_matches("SAGA_STATE_")
                    .to_lowercase()
                    .as_str(),
            ),
            order_id: decode::optional_uuid("order_id", &request.order_id)?,
        };
        let described = format!("{filter:?}");
        let (method, facility) = ("ops.v1.SagaService/ListSagas", &identity.facility);
        let list = page::List {
            method,
            facility,
            filter: &described,
        };
        let after: Option<Uuid> = self.app.page_tokens.decode(&list, &request.page_token)?;
        let size = page::size(request.page_size)?;
        let (sagas, more) = show::list(&self.app, facility, &filter, after, size).await?;
        let ids: Vec<Uuid> = sagas.iter().map(|saga| saga.id).collect();
        let bare = |saga| SagaView { saga, history: None };
        let mut sagas: Vec<_> = sagas.into_iter().map(|found| saga(&bare(found))).collect();
        let more = page::truncate(&mut sagas) || more;
        let last = ids.get(sagas.len().saturating_sub(1)).filter(|_| more);
        let next_page_token = last
            .map(|last| self.app.page_tokens.encode(&list, last))
            .transpose()?
            .unwrap_or_default();
        Ok(Response::new(ListSagasResponse {
            sagas,
            next_page_token,
        }))
    }

    async fn retry_saga(
        &self,
        request: Request<RetrySagaRequest>,
    ) -> Result<Response<RetrySagaResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let message = request.get_ref();
        let id = uuid("id", &message.id)?;
        let key = Key::new("ops.v1.SagaService/RetrySaga", &message.request_id, message)?;
        let app_request = request::Request::new(identity.facility, context(&request), key);
        let encode = |view: &SagaView| RetrySagaResponse {
            saga: Some(saga(view)),
        };
        encode_response(&retry::execute(&self.app, &app_request, id, &identity.subject, encode).await?)
    }

    async fn skip_saga_step(
        &self,
        request: Request<SkipSagaStepRequest>,
    ) -> Result<Response<SkipSagaStepResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let message = request.get_ref();
        let input = intervene::Input {
            saga_id: uuid("id", &message.id)?,
            intervention: Intervention::Skip,
            by: operator_note(&identity, &message.reason),
            step: message.step.clone(),
        };
        let key = Key::new("ops.v1.SagaService/SkipSagaStep", &message.request_id, message)?;
        let app_request = request::Request::new(identity.facility, context(&request), key);
        let encode = |view: &SagaView| SkipSagaStepResponse {
            saga: Some(saga(view)),
        };
        encode_response(&intervene::execute(&self.app, &app_request, &input, encode).await?)
    }

    async fn force_complete_saga(
        &self,
        request: Request<ForceCompleteSagaRequest>,
    ) -> Result<Response<ForceCompleteSagaResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let message = request.get_ref();
        let input = intervene::Input {
            saga_id: uuid("id", &message.id)?,
            intervention: Intervention::ForceComplete,
            by: operator_note(&identity, &message.reason),
            step: message.step.clone(),
        };
        let key = Key::new(
            "ops.v1.SagaService/ForceCompleteSaga",
            &message.request_id,
            message,
        )?;
        let app_request = request::Request::new(identity.facility, context(&request), key);
        let encode = |view: &SagaView| ForceCompleteSagaResponse {
            saga: Some(saga(view)),
        };
        encode_response(&intervene::execute(&self.app, &app_request, &input, encode).await?)
    }
}

fn operator_note(identity: &Identity, reason: &str) -> OperatorNote {
    OperatorNote {
        actor: identity.subject.clone(),
        reason: reason.trim().to_owned(),
    }
}

fn saga(view: &SagaView) -> wire::Saga {
    let SagaView { saga, history } = view;
    wire::Saga {
        id: saga.id.to_string(),
        kind: saga.kind.name().to_owned(),
        order_id: saga.order_id.to_string(),
        state: state(saga.state).into(),
        current_step: saga
            .action()
            .map(|action| action.step.name().to_owned())
            .unwrap_or_default(),
        steps: history
            .as_ref()
            .map(|history| steps(saga, &history.steps))
            .unwrap_or_default(),
        attempts: i32::try_from(saga.attempts).unwrap_or(i32::MAX),
        reason: saga.reason.clone(),
        wake_time: saga.wake_at.map(timestamp),
        deadline_time: Some(timestamp(saga.deadline_at)),
        create_time: Some(timestamp(saga.created_at)),
        update_time: Some(timestamp(saga.updated_at)),
        actions: history
            .iter()
            .flat_map(|history| &history.actions)
            .map(action)
            .collect(),
    }
}

fn action(row: &saga_actions::Row) -> wire::SagaAction {
    let kind = match saga_actions::Kind::from_name(&row.kind) {
        Some(saga_actions::Kind::Retried) => wire::SagaActionKind::Retried,
        Some(saga_actions::Kind::Skipped) => wire::SagaActionKind::Skipped,
        Some(saga_actions::Kind::ForceCompleted) => wire::SagaActionKind::ForceCompleted,
        None => wire::SagaActionKind::Unspecified,
    };
    wire::SagaAction {
        kind: kind.into(),
        step: row.step.clone(),
        compensation: row.compensation,
        actor: row.actor.clone(),
        reason: row.reason.clone(),
        create_time: Some(timestamp(row.created_at)),
    }
}

/// Encodes the finished steps and the current one, which has no row of its own.
fn steps(saga: &Saga, ended: &[saga_steps::Row]) -> Vec<wire::SagaStep> {
    let pivot = saga
        .kind
        .pivot(&saga.plan)
        .map(|position| saga.plan[position].name());
    let mut steps: Vec<wire::SagaStep> = ended
        .iter()
        .map(|row| wire::SagaStep {
            name: row.step.clone(),
            compensation: row.compensation,
            state: ending(&row.ending).into(),
            pivot: !row.compensation && pivot == Some(row.step.as_str()),
            result: row.result.clone(),
            attempts: row.attempts,
            create_time: Some(timestamp(row.begun_at)),
            update_time: Some(timestamp(row.ended_at)),
        })
        .collect();
    steps.extend(saga.action().map(|action| wire::SagaStep {
        name: action.step.name().to_owned(),
        compensation: action.compensation,
        state: wire::SagaStepState::Started.into(),
        pivot: !action.compensation && pivot == Some(action.step.name()),
        result: String::new(),
        attempts: i32::try_from(saga.attempts).unwrap_or(i32::MAX),
        create_time: Some(timestamp(saga.begun_at)),
        update_time: Some(timestamp(saga.updated_at)),
    }));
    steps
}

fn ending(name: &str) -> wire::SagaStepState {
    match StepEnding::from_name(name) {
        Some(StepEnding::Succeeded) => wire::SagaStepState::Succeeded,
        Some(StepEnding::Failed) => wire::SagaStepState::Failed,
        Some(StepEnding::Skipped) => wire::SagaStepState::Skipped,
        None => wire::SagaStepState::Unspecified,
    }
}

fn state(state: State) -> wire::SagaState {
    match state {
        State::Running => wire::SagaState::Running,
        State::Waiting => wire::SagaState::Waiting,
        State::Compensating => wire::SagaState::Compensating,
        State::Completed => wire::SagaState::Completed,
        State::Compensated => wire::SagaState::Compensated,
        State::Stuck => wire::SagaState::Stuck,
    }
}
