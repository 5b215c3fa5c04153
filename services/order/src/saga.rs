//! A long-running piece of work in steps, each of which can be undone until the pivot. This module is the state
//! machine, without I/O; `engine` drives it, `worker` resumes it, `participants` are whom its steps call.

mod active_sagas;
mod apply;
mod call_context;
mod checkpoint;
mod engine;
mod interruption;
mod intervention;
mod lease_renewal;
mod metrics;
pub(crate) mod outcome;
mod participants;
mod plan;
mod slots;
mod state_machine;
mod step;
mod transition;
mod unsaved;
mod worker;

pub use active_sagas::ActiveSagas;
pub use apply::SagaContext;
pub use call_context::{Origin, ServiceCredentials};
use chassis::Facility;
pub use engine::{Engine, Parts};
pub use intervention::{Intervention, InterventionError, OrderPayments, PaymentTotals};
pub use metrics::run_metrics;
pub use outcome::{Effect, Outcome, Wait};
pub use participants::Participants;
pub use plan::Kind;
pub use step::{Action, Participant, Step};
use time::OffsetDateTime;
use uuid::Uuid;
pub use worker::Worker;

use crate::error::Error;

/// Where a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Going forward.
    Running,
    /// Waits for something outside.
    Waiting,
    /// Undoing what was done.
    Compensating,
    Completed,
    Compensated,
    /// Needs a person. It is still tried, at long intervals.
    Stuck,
}

/// A saga as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Saga {
    pub id: Uuid,
    pub facility: Facility,
    pub kind: Kind,
    pub order_id: Uuid,
    /// What a RefundOrder gives back.
    pub refund_id: Option<Uuid>,
    /// Fixed when it begins.
    pub plan: Vec<Step>,
    /// Which step of the plan it is at.
    pub position: usize,
    pub backward: bool,
    pub state: State,
    /// Why it compensates or is stuck.
    pub reason: String,
    /// Failed tries of the current step.
    pub attempts: u32,
    pub version: i64,
    /// Who owns the lease now; a write with an older epoch is refused.
    pub epoch: i64,
    /// How often it was woken; one that is woken while it is driven goes on at once.
    pub nudges: i64,
    /// When it goes on, by the database's clock; `None`: at once, or never if it has ended.
    pub wake_at: Option<OffsetDateTime>,
    /// When it counts as stuck, by the database's clock.
    pub deadline_at: OffsetDateTime,
    /// When the current step was begun.
    pub begun_at: OffsetDateTime,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub(crate) progress: Vec<(i64, Progress)>,
    /// The steps that have ended since the saga was written.
    pub(crate) finished_steps: Vec<FinishedStep>,
}

/// What happened to a saga, to be told to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Started,
    StepCompleted(Action),
    Compensating { reason: String },
    Compensated,
    Stuck { step: Step, reason: String },
    Skipped { action: Action, by: OperatorNote },
    ForceCompleted { action: Action, by: OperatorNote },
    Completed,
}

/// What an operator says about an intervention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorNote {
    /// The subject of the operator's token.
    pub actor: String,
    pub reason: String,
}

/// A step that has ended, for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedStep {
    pub action: Action,
    pub ending: StepEnding,
    /// What it answered or failed with, or why it was left out.
    pub result: String,
    pub attempts: u32,
    pub begun_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
}

/// How a step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnding {
    Succeeded,
    Failed,
    /// An operator left it out, or ended the saga at it.
    Skipped,
}

impl Saga {
    /// Begins a saga of `kind` that runs `plan` and counts as stuck when it has not ended by `deadline_at`. The process
    /// that begins it holds its first lease.
    pub fn begin(
        kind: Kind,
        plan: Vec<Step>,
        facility: Facility,
        order_id: Uuid,
        deadline_at: OffsetDateTime,
    ) -> Saga {
        let now = OffsetDateTime::now_utc();
        let mut saga = Saga {
            id: Uuid::now_v7(),
            facility,
            kind,
            order_id,
            refund_id: None,
            plan,
            position: 0,
            backward: false,
            state: State::Running,
            reason: String::new(),
            attempts: 0,
            version: 0,
            epoch: 1,
            nudges: 0,
            wake_at: None,
            deadline_at,
            begun_at: now,
            created_at: now,
            updated_at: now,
            progress: Vec::new(),
            finished_steps: Vec::new(),
        };
        saga.record(Progress::Started);
        saga
    }

    /// What it does next; `None` once it has ended.
    pub fn action(&self) -> Option<Action> {
        if self.has_ended() {
            return None;
        }
        let step = *self.plan.get(self.position)?;
        Some(Action {
            step,
            compensation: self.backward,
        })
    }

    /// The `request_id` of an action's calls, the same in every try of every process.
    pub fn request_id(&self, action: Action) -> Uuid {
        let direction = if action.compensation {
            "compensation"
        } else {
            "forward"
        };
        Uuid::new_v5(&self.id, format!("{}:{direction}", action.step.name()).as_bytes())
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Completed | State::Compensated)
    }

    /// Whether the current step could still be refused. What is past the pivot only goes on, and so does what undoes:
    /// a compensation, and CancelOrder as a whole.
    pub fn can_compensate(&self) -> bool {
        let before_pivot = self
            .kind
            .pivot(&self.plan)
            .is_none_or(|pivot| self.position <= pivot);
        !self.backward && self.kind != Kind::CancelOrder && before_pivot
    }

    /// Why nobody else may decide about its order while it is under way.
    pub fn busy_error(&self) -> Error {
        let step = self.action().map(|action| action.step.name());
        match (self.state, step) {
            (State::Stuck, Some(step)) => Error::SagaStuck(self.id, step.to_owned()),
            _ => Error::Busy,
        }
    }

    /// Whether it goes straight on with its next step. Completion it pauses, turns back or ends, what its participants have
    /// answered is its record: after a crash they are asked again under the same keys, and answer the same.
    pub fn continues_at_once(&self) -> bool {
        self.state == State::Running && self.wake_at.is_none() && self.attempts == 0
    }

    /// Whether giving the current step up leaves its outcome open: at the pivot it may not.
    pub fn is_at_pivot(&self) -> bool {
        !self.backward && self.kind.pivot(&self.plan) == Some(self.position)
    }
}

impl State {
    const ALL: [State; 6] = [
        State::Running,
        State::Waiting,
        State::Compensating,
        State::Completed,
        State::Compensated,
        State::Stuck,
    ];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Waiting => "waiting",
            State::Compensating => "compensating",
            State::Completed => "completed",
            State::Compensated => "compensated",
            State::Stuck => "stuck",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl StepEnding {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            StepEnding::Succeeded => "succeeded",
            StepEnding::Failed => "failed",
            StepEnding::Skipped => "skipped",
        }
    }

    /// The ending of that name.
    pub fn from_name(name: &str) -> Option<StepEnding> {
        [StepEnding::Succeeded, StepEnding::Failed, StepEnding::Skipped]
            .into_iter()
            .find(|ending| ending.name() == name)
    }
}

#[cfg(test)]
#[path = "saga/tests.rs"]
mod tests;
