//! What the post office's verdict makes of a claim.

use events::Event;
use proto::claims::v1::{ClaimAccepted, ClaimRejected, ClaimSubmitted};

use super::Lease;
use crate::{
    announce::event,
    claim::State,
    post_office::Verdict,
    store::{
        Record,
        filings::{Ended, Filed},
    },
};

/// Where a claim that was leased in the state `before` stands after the verdict. Each event counts its version up by one: one
/// when the post office takes the claim, one when it decides.
pub(super) fn filed(before: State, verdict: &Verdict) -> Filed<'_> {
    let (state, rejection) = match verdict {
        Verdict::Pending => (State::Submitted, ""),
        Verdict::Accepted => (State::Accepted, ""),
        Verdict::Rejected(reason) => (State::Rejected, reason.as_str()),
    };
    let is_taken = before != State::Submitted;
    let is_decided = state != State::Submitted;
    Filed {
        before,
        state,
        rejection,
        changes: i64::from(is_taken) + i64::from(is_decided),
    }
}

/// The claim after its verdict was written, and the events of that.
pub(super) fn apply(lease: &Lease, verdict: &Verdict, ended: Ended) -> (Record, Vec<Event>) {
    let before = &lease.record;
    let filed = filed(before.state, verdict);
    let (claim_id, order_id, cycle) = (before.id.to_string(), before.order_id.to_string(), before.cycle);
    let (facility, id) = (lease.facility(), before.id);
    let mut events = Vec::new();
    if before.state != State::Submitted {
        let version = ended.version - filed.changes + 1;
        let submitted = ClaimSubmitted {
            claim_id: claim_id.clone(),
            order_id: order_id.clone(),
            cycle,
        };
        events.push(event(facility, id, version, &submitted));
    }
    match verdict {
        Verdict::Pending => {}
        Verdict::Accepted => {
            let accepted = ClaimAccepted {
                claim_id,
                order_id,
                cycle,
            };
            events.push(event(facility, id, ended.version, &accepted));
        }
        Verdict::Rejected(reason) => {
            let rejected = ClaimRejected {
                claim_id,
                order_id,
                reason: reason.clone(),
            };
            events.push(event(facility, id, ended.version, &rejected));
        }
    }
    let record = Record {
        state: filed.state,
        rejection: filed.rejection.to_owned(),
        version: ended.version,
        id_payer: ended.id_payer,
        remitter_id: ended.remitter_id,
        submitted_at: ended.submitted_at,
        updated_at: ended.updated_at,
        filing: false,
        ..before.clone()
    };
    (record, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(before: State, verdict: &Verdict) -> (State, i64) {
        let filed = filed(before, verdict);
        (filed.state, filed.changes)
    }

    #[test]
    fn a_claim_is_taken_and_decided_in_two_changes() {
        for before in [State::Validated, State::Resubmitted] {
            assert_eq!(changes(before, &Verdict::Pending), (State::Submitted, 1));
            assert_eq!(changes(before, &Verdict::Accepted), (State::Accepted, 2));
            let rejected = Verdict::Rejected("why".to_owned());
            assert_eq!(changes(before, &rejected), (State::Rejected, 2));
        }
    }

    #[test]
    fn a_claim_that_is_with_the_post_office_is_only_decided() {
        assert_eq!(
            changes(State::Submitted, &Verdict::Accepted),
            (State::Accepted, 1)
        );
        let rejected = Verdict::Rejected("why".to_owned());
        let filed = filed(State::Submitted, &rejected);
        assert_eq!(
            (filed.state, filed.changes, filed.rejection),
            (State::Rejected, 1, "why")
        );
    }
}
