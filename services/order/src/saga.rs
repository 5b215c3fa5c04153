//! A long-running operation in steps, each of which can be undone before the pivot. This module and
//! `state_machine` are the state machine, without I/O; `engine` drives it, `worker` resumes it, and `participants`
//! are the services that its steps call.

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

/// The state of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Executes its steps forward.
    Running,
    /// Waits for an external event.
    Waiting,
    /// Undoes completed steps.
    Compensating,
    Completed,
    Compensated,
    /// Needs an operator. It is still retried at long intervals.
    Stuck,
}

/// A saga as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Saga {
    pub id: Uuid,
    pub facility: Facility,
    pub kind: Kind,
    pub order_id: Uuid,
    /// The refund of a RefundOrder.
    pub refund_id: Option<Uuid>,
    /// Fixed when the saga begins.
    pub plan: Vec<Step>,
    /// The index of the current step in the plan.
    pub position: usize,
    pub backward: bool,
    pub state: State,
    /// Why it compensates or is stuck.
    pub reason: String,
    /// Failed tries of the current step.
    pub attempts: u32,
    pub version: i64,
    /// The fencing epoch of the lease; a write with an older epoch is rejected.
    pub epoch: i64,
    /// How often it was woken. A saga that is woken while it is driven is due again at once.
    pub nudges: i64,
    /// When it is due, by the database's clock; `None`: at once, or never if it has ended.
    pub wake_at: Option<OffsetDateTime>,
    /// When it counts as stuck, by the database's clock.
    pub deadline_at: OffsetDateTime,
    /// When the current step began.
    pub begun_at: OffsetDateTime,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub(crate) progress: Vec<(i64, Progress)>,
    /// The steps that have finished since the saga was saved.
    pub(crate) finished_steps: Vec<FinishedStep>,
}

/// A change of a saga that is published as an event.
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

/// The operator who intervened, and the reason given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorNote {
    /// The subject of the operator's token.
    pub actor: String,
    pub reason: String,
}

/// A finished step, for the saga's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedStep {
    pub action: Action,
    pub ending: StepEnding,
    /// The response or error in brief, or why it was skipped.
    pub result: String,
    pub attempts: u32,
    pub begun_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnding {
    Succeeded,
    Failed,
    /// An operator skipped it, or ended the saga at it.
    Skipped,
}

impl Saga {
    /// Begins a saga of `kind` with this `plan`. It counts as stuck if it has not ended by `deadline_at`. The
    /// process that begins it holds its first lease.
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

    /// The next action; `None` once the saga has ended.
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

    /// The `request_id` of an action's calls: the same in every try and every process.
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

    /// Whether a failure of the current step may begin the compensation. Past the pivot a saga only goes forward;
    /// a compensation, and CancelOrder as a whole, cannot be compensated.
    pub fn can_compensate(&self) -> bool {
        let before_pivot = self
            .kind
            .pivot(&self.plan)
            .is_none_or(|pivot| self.position <= pivot);
        !self.backward && self.kind != Kind::CancelOrder && before_pivot
    }

    /// Whether it continues with its next step without being saved. Until it pauses, compensates or ends, the
    /// participants' responses are its record: after a crash the calls are repeated with the same keys and get the
    /// same responses.
    pub fn continues_at_once(&self) -> bool {
        self.state == State::Running && self.wake_at.is_none() && self.attempts == 0
    }

    /// Whether the current step is the pivot, which must not be abandoned while its outcome is unknown.
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

    /// The name as it is stored.
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

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl StepEnding {
    /// The name as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            StepEnding::Succeeded => "succeeded",
            StepEnding::Failed => "failed",
            StepEnding::Skipped => "skipped",
        }
    }

    /// The ending with this name.
    pub fn from_name(name: &str) -> Option<StepEnding> {
        [StepEnding::Succeeded, StepEnding::Failed, StepEnding::Skipped]
            .into_iter()
            .find(|ending| ending.name() == name)
    }
}

#[cfg(test)]
#[path = "saga/tests.rs"]
mod tests;
