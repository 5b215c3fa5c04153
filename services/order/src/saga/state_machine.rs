//! The transitions of the saga's state machine. Due times are by the database's clock; times in the history are by
//! the process's clock.

use time::{Duration, OffsetDateTime};

use super::{FinishedStep, OperatorNote, Progress, Saga, State, StepEnding};

impl Saga {
    /// The current action has succeeded.
    pub fn complete_step(&mut self, result: String) {
        let Some(action) = self.action() else { return };
        self.end_step(StepEnding::Succeeded, result);
        self.record(Progress::StepCompleted(action));
        self.advance();
    }

    /// Completes a plan without steps.
    pub fn complete_empty_plan(&mut self) {
        if self.plan.is_empty() && !self.has_ended() {
            self.finish(State::Completed, Progress::Completed);
        }
    }

    /// The current step will never succeed: the steps before it are undone in reverse order. `undo`: this step
    /// too, because it may have had an effect.
    pub fn fail_step(&mut self, reason: &str, undo: bool) {
        self.end_step(StepEnding::Failed, reason.to_owned());
        self.backward = true;
        self.state = State::Compensating;
        reason.clone_into(&mut self.reason);
        self.record(Progress::Compensating {
            reason: reason.to_owned(),
        });
        self.seek_undo(self.position + usize::from(undo));
    }

    /// The current action waits for an external event until `wake_at` at the latest.
    pub fn wait(&mut self, wake_at: OffsetDateTime, counted: bool) {
        if self.state == State::Running {
            self.state = State::Waiting;
        }
        self.wake_at = Some(wake_at);
        self.attempts += u32::from(counted);
        self.touch();
    }

    /// Moves the deadline to at least `stuck_after` after `time`, because the saga waits for an external party
    /// until then.
    pub fn extend_deadline(&mut self, time: OffsetDateTime, stuck_after: Duration) {
        self.deadline_at = self.deadline_at.max(time + stuck_after);
    }

    /// The current action has failed and is retried at `wake_at`. `counted`: the try had its full time.
    pub fn retry(&mut self, wake_at: OffsetDateTime, counted: bool) {
        if self.state == State::Waiting {
            self.state = State::Running;
        }
        self.wake_at = Some(wake_at);
        self.attempts += u32::from(counted);
        self.touch();
    }

    /// Makes the saga due at once for another driver.
    pub fn requeue(&mut self, now: OffsetDateTime) {
        self.wake_at = Some(now);
        self.touch();
    }

    /// Marks the saga as stuck; an operator should look at it. It is still retried at `wake_at`, because an outage
    /// may end.
    pub fn mark_stuck(&mut self, reason: &str, wake_at: OffsetDateTime) {
        self.wake_at = Some(wake_at);
        self.attempts += 1;
        if self.state == State::Stuck {
            self.touch();
            return;
        }
        self.state = State::Stuck;
        reason.clone_into(&mut self.reason);
        if let Some(action) = self.action() {
            self.record(Progress::Stuck {
                step: action.step,
                reason: reason.to_owned(),
            });
        }
    }

    /// An operator wakes the saga: it is due at once, with zero attempts and a new deadline.
    pub fn wake(&mut self, now: OffsetDateTime, stuck_after: Duration) {
        if self.state == State::Stuck {
            self.state = if self.backward {
                State::Compensating
            } else {
                State::Running
            };
            self.reason.clear();
        }
        self.attempts = 0;
        self.deadline_at = now + stuck_after;
        self.wake_at = Some(now);
        self.touch();
    }

    /// An operator skips the current action. The next one is due at once, with a new deadline.
    pub fn skip_step(&mut self, by: &OperatorNote, now: OffsetDateTime, stuck_after: Duration) {
        let Some(action) = self.action() else { return };
        self.end_step(StepEnding::Skipped, by.reason.clone());
        let by = by.clone();
        self.record(Progress::Skipped { action, by });
        self.advance();
        if !self.has_ended() {
            self.wake(now, stuck_after);
        }
    }

    /// An operator ends the saga in its current direction.
    pub fn force_complete(&mut self, by: &OperatorNote) {
        let Some(action) = self.action() else { return };
        self.end_step(StepEnding::Skipped, by.reason.clone());
        let by = by.clone();
        self.record(Progress::ForceCompleted { action, by });
        if self.backward {
            self.finish(State::Compensated, Progress::Compensated);
        } else {
            self.finish(State::Completed, Progress::Completed);
        }
    }

    /// Another saga takes over; the new epoch fences off the current driver.
    pub fn supersede(&mut self, reason: &str) {
        self.epoch += 1;
        reason.clone_into(&mut self.reason);
        self.finish(State::Compensated, Progress::Compensated);
    }

    /// Continues after the current action.
    fn advance(&mut self) {
        if self.backward {
            self.seek_undo(self.position);
        } else if self.position + 1 == self.plan.len() {
            self.finish(State::Completed, Progress::Completed);
        } else {
            self.state = State::Running;
            self.begin_step(self.position + 1);
        }
    }

    /// Goes to the last step before `end` that has something to undo, or ends.
    fn seek_undo(&mut self, end: usize) {
        let undone_next = self.plan[..end.min(self.plan.len())]
            .iter()
            .rposition(|step| step.undo_step().is_some());
        match undone_next {
            Some(position) => {
                self.state = State::Compensating;
                self.begin_step(position);
            }
            None => self.finish(State::Compensated, Progress::Compensated),
        }
    }

    fn begin_step(&mut self, position: usize) {
        self.position = position;
        self.attempts = 0;
        self.wake_at = None;
        self.begun_at = OffsetDateTime::now_utc();
    }

    fn end_step(&mut self, ending: StepEnding, result: String) {
        let Some(action) = self.action() else { return };
        self.finished_steps.push(FinishedStep {
            action,
            ending,
            result,
            attempts: self.attempts + 1,
            begun_at: self.begun_at,
            ended_at: OffsetDateTime::now_utc(),
        });
    }

    fn finish(&mut self, state: State, progress: Progress) {
        self.state = state;
        self.wake_at = None;
        self.record(progress);
    }

    fn touch(&mut self) {
        self.version += 1;
        self.updated_at = OffsetDateTime::now_utc();
    }

    pub(super) fn record(&mut self, progress: Progress) {
        self.touch();
        self.progress.push((self.version, progress));
    }
}
