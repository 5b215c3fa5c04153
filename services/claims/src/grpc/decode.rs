//! Maps protobuf messages to the domain.

use money::Money;
use proto::claims::v1 as wire;

use crate::{balance::ClaimedActivity, claim::State};

/// The state; `None` for UNSPECIFIED.
pub fn state(state: wire::ClaimState) -> Option<State> {
    match state {
        wire::ClaimState::Unspecified => None,
        wire::ClaimState::Draft => Some(State::Draft),
        wire::ClaimState::Validated => Some(State::Validated),
        wire::ClaimState::Submitted => Some(State::Submitted),
        wire::ClaimState::Accepted => Some(State::Accepted),
        wire::ClaimState::Rejected => Some(State::Rejected),
        wire::ClaimState::Resubmitted => Some(State::Resubmitted),
        wire::ClaimState::Withdrawn => Some(State::Withdrawn),
    }
}

/// The claimed net of each activity.
pub fn claimed_activities(details: &wire::ClaimDetails) -> Vec<ClaimedActivity> {
    let decode = |activity: &wire::Activity| ClaimedActivity {
        activity_id: activity.id.clone(),
        net: minor(activity.net.as_ref()),
    };
    details.activities.iter().map(decode).collect()
}

/// An amount in minor units. The rules refuse claims with amounts that are not whole fils, so a failure to convert
/// cannot occur and counts as 0.
pub(super) fn minor(money: Option<&proto::google::r#type::Money>) -> i64 {
    money
        .and_then(|money| Money::try_from(money).ok())
        .map_or(0, Money::minor)
}
