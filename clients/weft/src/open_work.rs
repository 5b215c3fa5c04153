//! Counts the work that waits for an operator. The list of one kind mentions the other.

use proto::ops::v1::{ListDeadLettersRequest, ListSagasRequest, SagaState};

use crate::{clients::Clients, service::Service};

/// Counts the stuck sagas, at most one page of them; `None` if they cannot be listed.
pub(crate) async fn count_stuck_sagas(clients: &Clients) -> Option<usize> {
    let request = ListSagasRequest {
        state: SagaState::Stuck.into(),
        ..ListSagasRequest::default()
    };
    let answer = clients
        .saga()
        .list_sagas(clients.untracked_request(request).ok()?)
        .await;
    answer.ok().map(|answer| answer.into_inner().sagas.len())
}

/// Counts the open dead letters of all services, at most one page of each; `None` if a service cannot list them.
pub(crate) async fn count_dead_letters(clients: &Clients) -> Option<usize> {
    let mut open = 0;
    for service in Service::ALL {
        let request = clients
            .untracked_request(ListDeadLettersRequest::default())
            .ok()?;
        let answer = clients.dead_letters(service).list_dead_letters(request).await;
        open += answer.ok()?.into_inner().dead_letters.len();
    }
    Some(open)
}
