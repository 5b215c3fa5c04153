//! Applies the post office's verdict to a claim.

use events::Event;
use proto::claims::v1::{ClaimAccepted, ClaimRejected, ClaimSubmitted};

use super::Lease;
use crate::{
    claim::State,
    events::to_event,
    post_office::Verdict,
    store::{
        Record,
        submissions::{ReleasedClaim, Transition},
    },
};

/// The transition of a claim that was leased in the state `before`. Each event increments the version by one: one
/// when the post office receives the claim, one when it decides.
pub(super) fn transition(before: State, verdict: &Verdict) -> Transition<'_> {
    let (state, rejection) = match verdict {
        Verdict::Pending => (State::Submitted, ""),
        Verdict::Accepted => (State::Accepted, ""),
        Verdict::Rejected(reason) => (State::Rejected, reason.as_str()),
    };
    let is_received = before != State::Submitted;
    let is_decided = state != State::Submitted;
    Transition {
        before,
        state,
        rejection,
        changes: i64::from(is_received) + i64::from(is_decided),
    }
}

/// The claim after its verdict was written, and the events to append.
pub(super) fn apply(lease: &Lease, verdict: &Verdict, released: ReleasedClaim) -> (Record, Vec<Event>) {
    let before = &lease.record;
    let transition = transition(before.state, verdict);
    let (claim_id, order_id, cycle) = (before.id.to_string(), before.order_id.to_string(), before.cycle);
    let (facility, id) = (lease.facility(), before.id);
    let mut events = Vec::new();
    if before.state != State::Submitted {
        let version = released.version - transition.changes + 1;
        let submitted = ClaimSubmitted {
            claim_id: claim_id.clone(),
            order_id: order_id.clone(),
            cycle,
        };
        events.push(to_event(facility, id, version, &submitted));
    }
    match verdict {
        Verdict::Pending => {}
        Verdict::Accepted => {
            let accepted = ClaimAccepted {
                claim_id,
                order_id,
                cycle,
            };
            events.push(to_event(facility, id, released.version, &accepted));
        }
        Verdict::Rejected(reason) => {
            let rejected = ClaimRejected {
                claim_id,
                order_id,
                reason: reason.clone(),
            };
            events.push(to_event(facility, id, released.version, &rejected));
        }
    }
    let record = Record {
        state: transition.state,
        rejection: transition.rejection.to_owned(),
        version: released.version,
        id_payer: released.id_payer,
        remitter_id: released.remitter_id,
        submitted_at: released.submitted_at,
        updated_at: released.updated_at,
        is_submitting: false,
        ..before.clone()
    };
    (record, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(before: State, verdict: &Verdict) -> (State, i64) {
        let transition = transition(before, verdict);
        (transition.state, transition.changes)
    }

    #[test]
    fn receipt_and_decision_are_two_changes() {
        for before in [State::Validated, State::Resubmitted] {
            assert_eq!(changes(before, &Verdict::Pending), (State::Submitted, 1));
            assert_eq!(changes(before, &Verdict::Accepted), (State::Accepted, 2));
            let rejected = Verdict::Rejected("why".to_owned());
            assert_eq!(changes(before, &rejected), (State::Rejected, 2));
        }
    }

    #[test]
    fn the_decision_on_a_submitted_claim_is_one_change() {
        assert_eq!(
            changes(State::Submitted, &Verdict::Accepted),
            (State::Accepted, 1)
        );
        let rejected = Verdict::Rejected("why".to_owned());
        let transition = transition(State::Submitted, &rejected);
        assert_eq!(
            (transition.state, transition.changes, transition.rejection),
            (State::Rejected, 1, "why")
        );
    }
}
