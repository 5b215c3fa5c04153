use proto::ops::v1::{self as ops, dead_letter_service_server::DeadLetterService};
use sqlx::{Postgres, Transaction};
use tonic::{Request, Response, Status};

use super::{
    Caller, DeadLetters,
    actions::{self, About, Action},
    edits::{self, Approval},
    failure::Failure,
    letters::{self, Filter},
    page, rehearse, runs, show,
};

#[tonic::async_trait]
impl DeadLetterService for DeadLetters {
    async fn list_dead_letters(
        &self,
        request: Request<ops::ListDeadLettersRequest>,
    ) -> Result<Response<ops::ListDeadLettersResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let size = page::size(request.page_size)?;
        let states = letters::states(request.state());
        let scope = [
            "letters",
            &caller.facility,
            &states.join(","),
            &request.consumer,
            &request.fingerprint,
        ];
        let cursor = self.0.tokens.decode(&scope, &request.page_token)?;
        let before = cursor.map(|id| actions::uuid(&id, "page_token")).transpose()?;
        let facilities = caller.facilities();
        let filter = Filter {
            facilities: &facilities,
            states: &states,
            consumer: &request.consumer,
            fingerprint: &request.fingerprint,
            before,
            at_most: size + 1,
        };
        let mut tx = self.begin(&caller).await?;
        let mut found = letters::select(&mut tx, &filter).await.map_err(Failure::from)?;
        let more = found.len() as i64 > size;
        found.truncate(usize::try_from(size).unwrap_or_default());
        let mut dead_letters: Vec<ops::DeadLetter> = found.into_iter().map(Into::into).collect();
        let more = chassis::page::cut(&mut dead_letters) || more;
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
        let (caller, request) = self.open(request)?;
        let size = page::size(request.page_size)?;
        let scope = ["groups", &caller.facility];
        let cursor = self
            .0
            .tokens
            .decode(&scope, &request.page_token)?
            .unwrap_or_default();
        let after = cursor
            .split_once(' ')
            .and_then(|(count, print)| Some((count.parse().ok()?, print)));
        let mut tx = self.begin(&caller).await?;
        let facilities = caller.facilities();
        let found = letters::groups(&mut tx, &facilities, after, size + 1).await;
        let mut found = found.map_err(Failure::from)?;
        let partial = letters::more_than_grouped(&mut tx, &facilities).await;
        let more = found.len() as i64 > size;
        found.truncate(usize::try_from(size).unwrap_or_default());
        let cursors: Vec<_> = found
            .iter()
            .map(|group| format!("{} {}", group.count, group.fingerprint))
            .collect();
        let mut groups: Vec<ops::DeadLetterGroup> = found.into_iter().map(Into::into).collect();
        let more = chassis::page::cut(&mut groups) || more;
        let cursor = cursors.get(groups.len().saturating_sub(1)).filter(|_| more);
        Ok(Response::new(ops::ListDeadLetterGroupsResponse {
            groups,
            partial: partial.map_err(Failure::from)?,
            next_page_token: cursor
                .map(|cursor| self.0.tokens.encode(&scope, cursor))
                .unwrap_or_default(),
        }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<ops::GetDeadLetterRequest>,
    ) -> Result<Response<ops::GetDeadLetterResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let id = actions::uuid(&request.dead_letter_id, "dead_letter_id")?;
        let mut tx = self.begin(&caller).await?;
        Ok(Response::new(show::whole(&mut tx, id).await?))
    }

    async fn get_replay_run(
        &self,
        request: Request<ops::GetReplayRunRequest>,
    ) -> Result<Response<ops::GetReplayRunResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let id = actions::uuid(&request.replay_run_id, "replay_run_id")?;
        let mut tx = self.begin(&caller).await?;
        let run = Some(runs::find(&mut tx, id).await?);
        Ok(Response::new(ops::GetReplayRunResponse { run }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<ops::ReplayDeadLetterRequest>,
    ) -> Result<Response<ops::ReplayDeadLetterResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let action = Action::of("ReplayDeadLetter", &request, &request.request_id, &caller)?;
        self.once(&action, async |tx| {
            actions::replay(tx, self.0.bus.service(), &request).await
        })
        .await
    }

    async fn replay_dead_letter_group(
        &self,
        request: Request<ops::ReplayDeadLetterGroupRequest>,
    ) -> Result<Response<ops::ReplayDeadLetterGroupResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let action = Action::of("ReplayDeadLetterGroup", &request, &request.request_id, &caller)?;
        self.once(&action, async |tx| {
            actions::replay_group(tx, &caller, &request).await
        })
        .await
    }

    async fn discard_dead_letter(
        &self,
        request: Request<ops::DiscardDeadLetterRequest>,
    ) -> Result<Response<ops::DiscardDeadLetterResponse>, Status> {
        let (caller, request) = self.open(request)?;
        if request.reason.trim().len() < 3 {
            return Err(Failure::Invalid {
                field: "reason",
                problem: "must say why",
            }
            .into());
        }
        let action = Action::of("DiscardDeadLetter", &request, &request.request_id, &caller)?;
        self.once(&action, async |tx| {
            actions::discard(tx, self.0.bus.service(), &request).await
        })
        .await
    }

    async fn rehearse_replay(
        &self,
        request: Request<ops::RehearseReplayRequest>,
    ) -> Result<Response<ops::RehearseReplayResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let answer = rehearse::rehearse(&self.0.bus, &self.0.pool, &caller, &request).await?;
        Ok(Response::new(answer))
    }

    async fn edit_dead_letter(
        &self,
        request: Request<ops::EditDeadLetterRequest>,
    ) -> Result<Response<ops::EditDeadLetterResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let approval = if self.0.bus.settings().edits_need_approval {
            Approval::SecondPerson
        } else {
            Approval::Needless
        };
        let action = Action::of("EditDeadLetter", &request, &request.request_id, &caller)?;
        self.once(&action, async |tx| {
            edits::edit(tx, self.0.bus.service(), &caller, approval, &request).await
        })
        .await
    }

    async fn approve_dead_letter_edit(
        &self,
        request: Request<ops::ApproveDeadLetterEditRequest>,
    ) -> Result<Response<ops::ApproveDeadLetterEditResponse>, Status> {
        let (caller, request) = self.open(request)?;
        let action = Action::of("ApproveDeadLetterEdit", &request, &request.request_id, &caller)?;
        self.once(&action, async |tx| {
            edits::approve(tx, self.0.bus.service(), &caller, &request).await
        })
        .await
    }
}

impl DeadLetters {
    fn open<M>(&self, request: Request<M>) -> Result<(Caller, M), Status> {
        let caller = (self.0.caller)(request.extensions())?;
        Ok((caller, request.into_inner()))
    }

    async fn begin(&self, caller: &Caller) -> Result<Transaction<'static, Postgres>, Failure> {
        Ok(caller.begin(&self.0.pool).await?)
    }

    async fn once<A: prost::Message + Default>(
        &self,
        action: &Action<'_>,
        act: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<(A, About), Failure>,
    ) -> Result<Response<A>, Status> {
        let answer = actions::once(&self.0.pool, action, act).await?;
        self.0.bus.outbox().wake();
        Ok(answer)
    }
}
