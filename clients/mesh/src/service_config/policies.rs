//! Lists of load-balancing policies.
//!
//! The first known policy of a list is selected and unknown ones are skipped, as the specification says. What comes
//! after the selected one is for other clients and is not read.

use serde_json::{Map, Value};

use super::invalid;
use crate::Error;

/// The name of a policy and its settings.
pub(super) type Policy = Map<String, Value>;

/// All of these select the mesh's own balancer. The standard ones are among them, so that one file works for clients
/// in every language; like them, it sends calls to connected endpoints.
const BALANCERS: [&str; 3] = ["peak_ewma", "round_robin", "pick_first"];
/// The name in the standard's JSON, and the name in gRFC A50.
const OUTLIER_DETECTION: [&str; 2] = ["outlier_detection_experimental", "outlier_detection"];
/// The mesh's own policy for routes.
const ROUTES: &str = "weft_routes";

/// What a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Balancer,
    OutlierDetection,
    Routes,
}

/// A selected policy.
#[derive(Debug)]
pub(super) struct Selected<'a> {
    pub(super) kind: Kind,
    /// Its place in the service config: `loadBalancingConfig[0].round_robin`.
    pub(super) path: String,
    pub(super) settings: &'a Value,
}

fn kind(name: &str) -> Option<Kind> {
    match name {
        ROUTES => Some(Kind::Routes),
        name if BALANCERS.contains(&name) => Some(Kind::Balancer),
        name if OUTLIER_DETECTION.contains(&name) => Some(Kind::OutlierDetection),
        _ => None,
    }
}

/// The first known policy; `None` if none is listed.
///
/// # Errors
/// If all are unknown, an entry does not name one policy, or routes come after the selected one: no other client
/// knows them.
pub(super) fn select<'a>(path: &str, listed: &'a [Policy]) -> Result<Option<Selected<'a>>, Error> {
    let mut selected: Option<Selected<'_>> = None;
    for (place, policy) in listed.iter().enumerate() {
        let mut entries = policy.iter();
        let (Some((name, settings)), None) = (entries.next(), entries.next()) else {
            return Err(invalid(
                &format!("{path}[{place}]"),
                "must name exactly one policy",
            ));
        };
        let Some(kind) = kind(name) else { continue };
        let path = format!("{path}[{place}].{name}");
        match &selected {
            None => selected = Some(Selected { kind, path, settings }),
            Some(_) if kind == Kind::Routes => {
                return Err(invalid(&path, "is not used, because a policy before it is known"));
            }
            Some(_) => {}
        }
    }
    if selected.is_none() && !listed.is_empty() {
        let known = [&BALANCERS[..], &OUTLIER_DETECTION[..], &[ROUTES]]
            .concat()
            .join(", ");
        let reason = format!("none of these is supported; known are {known}");
        return Err(invalid(path, &reason));
    }
    Ok(selected)
}
