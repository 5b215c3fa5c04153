use proto::ops::v1::{self as ops, dead_letter_service_server::DeadLetterService};
use sqlx::{Postgres, Transaction};
use tonic::{Request, Response, Status};

use super::{
    DeadLetters, Operator,
    actions::{self, Action, AuditDetail},
    dead_letters::{self, Filter},
    dry_run,
    edits::{self, Approval},
    error::Error,
    page, runs, show,
};

#[tonic::async_trait]
impl DeadLetterService for DeadLetters {
    async fn list_dead_letters(
        &self,
        request: Request<ops::ListDeadLettersRequest>,
    ) -> Result<Response<ops::ListDeadLettersResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let size = page::size(request.page_size)?;
        let states = dead_letters::states(request.state());
        let scope = [
            "letters",
            &operator.facility,
            &states.join(","),
            &request.consumer,
            &request.fingerprint,
        ];
        let cursor = self.0.tokens.decode(&scope, &request.page_token)?;
        let before = cursor.map(|id| actions::uuid(&id, "page_token")).transpose()?;
        let facilities = operator.facilities();
        let filter = Filter {
            facilities: &facilities,
            states: &states,
            consumer: &request.consumer,
            fingerprint: &request.fingerprint,
            before,
            limit: size + 1,
        };
        let mut tx = self.begin(&operator).await?;
        let mut found = dead_letters::list(&mut tx, &filter).await.map_err(Error::from)?;
        let more = found.len() as i64 > size;
        found.truncate(usize::try_from(size).unwrap_or_default());
        let mut dead_letters: Vec<ops::DeadLetter> = found.into_iter().map(Into::into).collect();
        let more = chassis::page::truncate(&mut dead_letters) || more;
        let next = dead_letters
            .last()
            .filter(|_| more)
            .map(|last| self.0.tokens.encode(&scope, &last.id));
        Ok(Response::new(ops::ListDeadLettersResponse {
            dead_letters,
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn list_dead_letter_groups(
        &self,
        request: Request<ops::ListDeadLetterGroupsRequest>,
    ) -> Result<Response<ops::ListDeadLetterGroupsResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let size = page::size(request.page_size)?;
        let scope = ["groups", &operator.facility];
        let cursor = self
            .0
            .tokens
            .decode(&scope, &request.page_token)?
            .unwrap_or_default();
        let after = cursor
            .split_once(' ')
            .and_then(|(count, fingerprint)| Some((count.parse().ok()?, fingerprint)));
        let mut tx = self.begin(&operator).await?;
        let facilities = operator.facilities();
        let found = dead_letters::list_groups(&mut tx, &facilities, after, size + 1).await;
        let mut found = found.map_err(Error::from)?;
        let partial = dead_letters::exceeds_grouped(&mut tx, &facilities).await;
        let more = found.len() as i64 > size;
        found.truncate(usize::try_from(size).unwrap_or_default());
        let cursors: Vec<_> = found
            .iter()
            .map(|group| format!("{} {}", group.count, group.fingerprint))
            .collect();
        let mut groups: Vec<ops::DeadLetterGroup> = found.into_iter().map(Into::into).collect();
        let more = chassis::page::truncate(&mut groups) || more;
        let cursor = cursors.get(groups.len().saturating_sub(1)).filter(|_| more);
        Ok(Response::new(ops::ListDeadLetterGroupsResponse {
            groups,
            partial: partial.map_err(Error::from)?,
            next_page_token: cursor
                .map(|cursor| self.0.tokens.encode(&scope, cursor))
                .unwrap_or_default(),
        }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<ops::GetDeadLetterRequest>,
    ) -> Result<Response<ops::GetDeadLetterResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let id = actions::uuid(&request.dead_letter_id, "dead_letter_id")?;
        let mut tx = self.begin(&operator).await?;
        Ok(Response::new(show::get(&mut tx, id).await?))
    }

    async fn get_replay_run(
        &self,
        request: Request<ops::GetReplayRunRequest>,
    ) -> Result<Response<ops::GetReplayRunResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let id = actions::uuid(&request.replay_run_id, "replay_run_id")?;
        let mut tx = self.begin(&operator).await?;
        let run = Some(runs::find(&mut tx, id).await?);
        Ok(Response::new(ops::GetReplayRunResponse { run }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<ops::ReplayDeadLetterRequest>,
    ) -> Result<Response<ops::ReplayDeadLetterResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let action = Action::new("ReplayDeadLetter", &request, &request.request_id, &operator)?;
        self.execute_once(&action, async |tx| {
            actions::replay(tx, self.0.bus.service(), &request).await
        })
        .await
    }

    async fn replay_dead_letter_group(
        &self,
        request: Request<ops::ReplayDeadLetterGroupRequest>,
    ) -> Result<Response<ops::ReplayDeadLetterGroupResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let action = Action::new("ReplayDeadLetterGroup", &request, &request.request_id, &operator)?;
        self.execute_once(&action, async |tx| {
            actions::replay_group(tx, &operator, &request).await
        })
        .await
    }

    async fn discard_dead_letter(
        &self,
        request: Request<ops::DiscardDeadLetterRequest>,
    ) -> Result<Response<ops::DiscardDeadLetterResponse>, Status> {
        let (operator, request) = self.open(request)?;
        if request.reason.trim().len() < 3 {
            return Err(Error::Invalid {
                field: "reason",
                problem: "must say why",
            }
            .into());
        }
        let action = Action::new("DiscardDeadLetter", &request, &request.request_id, &operator)?;
        self.execute_once(&action, async |tx| {
            actions::discard(tx, self.0.bus.service(), &request).await
        })
        .await
    }

    async fn rehearse_replay(
        &self,
        request: Request<ops::RehearseReplayRequest>,
    ) -> Result<Response<ops::RehearseReplayResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let response = dry_run::execute(&self.0.bus, &self.0.pool, &operator, &request).await?;
        Ok(Response::new(response))
    }

    async fn edit_dead_letter(
        &self,
        request: Request<ops::EditDeadLetterRequest>,
    ) -> Result<Response<ops::EditDeadLetterResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let approval = if self.0.bus.settings().edits_need_approval {
            Approval::SecondPerson
        } else {
            Approval::NotRequired
        };
        let action = Action::new("EditDeadLetter", &request, &request.request_id, &operator)?;
        self.execute_once(&action, async |tx| {
            edits::edit(tx, self.0.bus.service(), &operator, approval, &request).await
        })
        .await
    }

    async fn approve_dead_letter_edit(
        &self,
        request: Request<ops::ApproveDeadLetterEditRequest>,
    ) -> Result<Response<ops::ApproveDeadLetterEditResponse>, Status> {
        let (operator, request) = self.open(request)?;
        let action = Action::new("ApproveDeadLetterEdit", &request, &request.request_id, &operator)?;
        self.execute_once(&action, async |tx| {
            edits::approve(tx, self.0.bus.service(), &operator, &request).await
        })
        .await
    }
}

impl DeadLetters {
    fn open<M>(&self, request: Request<M>) -> Result<(Operator, M), Status> {
        let operator = (self.0.authenticate)(request.extensions())?;
        Ok((operator, request.into_inner()))
    }

    async fn begin(&self, operator: &Operator) -> Result<Transaction<'static, Postgres>, Error> {
        Ok(operator.begin(&self.0.pool).await?)
    }

    async fn execute_once<A: prost::Message + Default>(
        &self,
        action: &Action<'_>,
        act: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<(A, AuditDetail), Error>,
    ) -> Result<Response<A>, Status> {
        let response = actions::execute_once(&self.0.pool, action, act).await?;
        self.0.bus.outbox().wake();
        Ok(response)
    }
}
