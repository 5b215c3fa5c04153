//! How a saga moves: the transitions of its state machine. When it goes on is told by the database's clock, which says when
//! it is due; the record of what has happened has the times of the process.

use time::{Duration, OffsetDateTime};

use super::{FinishedStep, OperatorNote, Progress, Saga, State, StepEnding};

impl Saga {
    /// The current action took effect.
    pub fn complete_step(&mut self, result: String) {
        let Some(action) = self.action() else { return };
        self.end_step(StepEnding::Succeeded, result);
        self.record(Progress::StepCompleted(action));
        self.advance();
    }

    /// A plan without steps is done as it begins.
    pub fn complete_empty_plan(&mut self) {
        if self.plan.is_empty() && !self.has_ended() {
            self.finish(State::Completed, Progress::Completed);
        }
    }

    /// The current step will never succeed: what was done before is undone, in reverse. `undo`: also this step, because
    /// something may be left over of it.
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

    /// The current action waits for something outside, at most until `wake_at`.
    pub fn wait(&mut self, wake_at: OffsetDateTime, counted: bool) {
        if self.state == State::Running {
            self.state = State::Waiting;
        }
        self.wake_at = Some(wake_at);
        self.attempts += u32::from(counted);
        self.touch();
    }

    /// It counts as stuck only `stuck_after` after `time`, which is somebody else's.
    pub fn extend_deadline(&mut self, time: OffsetDateTime, stuck_after: Duration) {
        self.deadline_at = self.deadline_at.max(time + stuck_after);
    }

    /// The current action failed and is tried again at `wake_at`. `counted`: it had all the time it needed.
    pub fn retry(&mut self, wake_at: OffsetDateTime, counted: bool) {
        if self.state == State::Waiting {
            self.state = State::Running;
        }
        self.wake_at = Some(wake_at);
        self.attempts += u32::from(counted);
        self.touch();
    }

    /// Its driver leaves it to another one, at once.
    pub fn requeue(&mut self, now: OffsetDateTime) {
        self.wake_at = Some(now);
        self.touch();
    }

    /// A person should look. It is tried again at `wake_at` all the same: what was down may come back.
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

    /// An operator wakes it: at once, with its attempts counted from zero and another `stuck_after`.
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

    /// An operator leaves the current action out. It goes on with the next one at once, with another `stuck_after`.
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

    /// An operator ends it in the direction that it has.
    pub fn force_complete(&mut self, by: &OperatorNote) {
        let Some(action) = self.action() else { return };
        self.end_step(StepEnding::Skipped, by.reason.clone());
        let by = by.clone();
        self.record(Progress::ForceCompleted { action, by });
        if self.backward {
            self.finish(State::Compensated, Progress::Compensated)
        } else {
            self.finish(State::Completed, Progress::Completed)
        }
    }

    /// Another saga takes its work over; whoever still drives it is fenced off.
    pub fn supersede(&mut self, reason: &str) {
        self.epoch += 1;
        reason.clone_into(&mut self.reason);
        self.finish(State::Compensated, Progress::Compensated);
    }

    /// Goes on after the current action has ended.
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
            .rposition(|step| step.undoing().is_some());
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
