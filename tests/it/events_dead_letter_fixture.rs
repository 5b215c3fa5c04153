//! Fixture for dead letters: a consumer that fails chosen events, and an operator.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use events::{DeadLetters, HandlerError, Maintenance, Operator, Settings};
use proto::ops::v1::{self as ops, dead_letter_service_server::DeadLetterService as _};
use tests::{Nats, eventually};
use tonic::Request;
use uuid::Uuid;

use crate::events_fixture::{FACILITY, Fixture, SOON};

/// Versions of events that fail permanently, until they are removed.
pub(crate) type Poison = Arc<Mutex<BTreeSet<i64>>>;

pub(crate) struct DeadLetterFixture {
    pub(crate) backbone: Fixture,
    pub(crate) poison: Poison,
    pub(crate) operator: DeadLetters,
}

impl DeadLetterFixture {
    pub(crate) async fn start(poisoned: impl IntoIterator<Item = i64>) -> DeadLetterFixture {
        Self::on(Nats::start().await, poisoned, |_| {}).await
    }

    /// Starts on an existing broker with changed settings.
    pub(crate) async fn on(
        nats: Nats,
        poisoned: impl IntoIterator<Item = i64>,
        change: impl FnOnce(&mut Settings),
    ) -> DeadLetterFixture {
        let mut fixture = Self::new(Fixture::on(nats, change).await);
        fixture.poison.lock().unwrap().extend(poisoned);
        let poisoned = fixture.poison.clone();
        fixture.backbone.consume(move |delivery| {
            if poisoned.lock().unwrap().contains(&delivery.version) {
                let text = format!(
                    "order {} cannot be version {}",
                    delivery.aggregate_id, delivery.version
                );
                return Err(HandlerError::permanent("ORDER_ODD", text));
            }
            Ok(())
        });
        fixture
    }

    /// Starts without a consumer. `approval`: edits of dead letters need a second person.
    pub(crate) async fn with(approval: bool) -> DeadLetterFixture {
        Self::new(Fixture::with(|settings| settings.edits_need_approval = approval).await)
    }

    fn new(mut backbone: Fixture) -> DeadLetterFixture {
        backbone.publish();
        let poison = Poison::default();
        let maintenance = Maintenance::new(&backbone.bus, &backbone.pool);
        backbone.spawn(|stop| maintenance.run(stop));
        let operator = DeadLetters::new(
            &backbone.bus,
            &backbone.pool,
            b"sixteen bytes or more",
            |extensions| {
                Ok(extensions
                    .get::<Operator>()
                    .expect("the test says who calls")
                    .clone())
            },
        );
        DeadLetterFixture {
            backbone,
            poison,
            operator,
        }
    }

    pub(crate) fn stop_failing(&self) {
        self.poison.lock().unwrap().clear();
    }

    /// Waits until this many dead letters are open.
    pub(crate) async fn open(&self, count: usize) -> Vec<ops::DeadLetter> {
        eventually(SOON, || async {
            let request = ops::ListDeadLettersRequest {
                state: ops::DeadLetterState::Open.into(),
                ..Default::default()
            };
            let answer = self
                .operator
                .list_dead_letters(by(FACILITY, request))
                .await
                .unwrap();
            let letters = answer.into_inner().dead_letters;
            if letters.len() == count {
                Ok(letters)
            } else {
                Err(format!("{} are open", letters.len()))
            }
        })
        .await
    }

    pub(crate) async fn get(&self, id: &str) -> ops::GetDeadLetterResponse {
        let request = ops::GetDeadLetterRequest {
            dead_letter_id: id.to_owned(),
        };
        self.operator
            .get_dead_letter(by(FACILITY, request))
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn replay(&self, id: &str) {
        let request = ops::ReplayDeadLetterRequest {
            dead_letter_id: id.to_owned(),
            request_id: Uuid::new_v4().to_string(),
        };
        self.operator
            .replay_dead_letter(by(FACILITY, request))
            .await
            .unwrap();
    }

    pub(crate) async fn until_state(&self, id: &str, state: ops::DeadLetterState) {
        eventually(SOON, || async {
            let is = self.get(id).await.dead_letter.unwrap().state();
            if is == state {
                Ok(())
            } else {
                Err(format!("{is:?}"))
            }
        })
        .await;
    }

    pub(crate) async fn run(
        &self,
        letter: &ops::DeadLetter,
        mode: ops::ReplayMode,
        rate: u32,
    ) -> ops::ReplayRun {
        let request = ops::ReplayDeadLetterGroupRequest {
            fingerprint: letter.fingerprint.clone(),
            request_id: Uuid::new_v4().to_string(),
            rate,
            mode: mode.into(),
        };
        let answer = self
            .operator
            .replay_dead_letter_group(by(FACILITY, request))
            .await
            .unwrap();
        let id = answer.into_inner().run.unwrap().id;
        eventually(SOON, || async {
            let request = ops::GetReplayRunRequest {
                replay_run_id: id.clone(),
            };
            let answer = self.operator.get_replay_run(by(FACILITY, request)).await.unwrap();
            let run = answer.into_inner().run.unwrap();
            if run.state() == ops::ReplayRunState::Running {
                Err(format!("{run:?}"))
            } else {
                Ok(run)
            }
        })
        .await
    }
}

/// A request of the operator olivia of a facility.
pub(crate) fn by<M>(facility: &str, message: M) -> Request<M> {
    let caller = Operator {
        facility: facility.into(),
        subject: "olivia".into(),
        administrator: false,
    };
    from(caller, message)
}

pub(crate) fn from<M>(caller: Operator, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(caller);
    request
}
