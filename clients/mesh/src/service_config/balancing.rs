//! The policies of `loadBalancingConfig`.
//!
//! The first known policy of a list is selected and unknown ones are skipped, as the specification says. What comes
//! after the selected one is for other clients and is not read.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    invalid,
    scalars::{duration, number},
};
use crate::{
    Error,
    outlier_detection::{
        BASE_EJECTION_TIME, FailurePercentageEjection, INTERVAL, MAX_EJECTION_TIME, OutlierDetection,
        SuccessRateEjection,
    },
};

/// The name of a policy and its settings.
pub(super) type Policy = Map<String, Value>;

/// All of these select the mesh's own balancer. The standard ones are among them, so that one file works for clients
/// in every language; like them, it sends calls to connected endpoints.
const BALANCERS: [&str; 3] = ["peak_ewma", "round_robin", "pick_first"];
/// The name in the standard's JSON, and the name in gRFC A50.
const OUTLIER_DETECTION: [&str; 2] = ["outlier_detection_experimental", "outlier_detection"];
/// A sweep visits every endpoint.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// `OutlierDetectionLoadBalancingConfig` of grpc/proto/service_config.proto.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OutlierDetectionConfig {
    #[serde(default, deserialize_with = "duration::positive")]
    interval: Option<Duration>,
    #[serde(default, deserialize_with = "duration::positive")]
    base_ejection_time: Option<Duration>,
    #[serde(default, deserialize_with = "duration::positive")]
    max_ejection_time: Option<Duration>,
    #[serde(default, deserialize_with = "number::percent")]
    max_ejection_percent: Option<u32>,
    success_rate_ejection: Option<SuccessRateConfig>,
    failure_percentage_ejection: Option<FailurePercentageConfig>,
    child_policy: Option<Vec<Policy>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SuccessRateConfig {
    #[serde(default, deserialize_with = "number::optional")]
    stdev_factor: Option<u32>,
    #[serde(default, deserialize_with = "number::percent")]
    enforcement_percentage: Option<u32>,
    #[serde(default, deserialize_with = "number::optional")]
    minimum_hosts: Option<u32>,
    #[serde(default, deserialize_with = "number::optional")]
    request_volume: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FailurePercentageConfig {
    #[serde(default, deserialize_with = "number::percent")]
    threshold: Option<u32>,
    #[serde(default, deserialize_with = "number::percent")]
    enforcement_percentage: Option<u32>,
    #[serde(default, deserialize_with = "number::optional")]
    minimum_hosts: Option<u32>,
    #[serde(default, deserialize_with = "number::optional")]
    request_volume: Option<u32>,
}

/// Checks `loadBalancingConfig`, and returns its outlier detection if it selects that.
pub(super) fn outlier_detection(listed: &[Policy]) -> Result<Option<OutlierDetection>, Error> {
    match first_known("loadBalancingConfig", listed)? {
        Some((path, name, settings)) if OUTLIER_DETECTION.contains(&name) => {
            read_outlier_detection(path, settings).map(Some)
        }
        _ => Ok(None),
    }
}

/// The path, name and settings of the first known policy; `None` if none is listed.
fn first_known<'a>(path: &str, listed: &'a [Policy]) -> Result<Option<(String, &'a str, &'a Value)>, Error> {
    let mut first = None;
    for (place, policy) in listed.iter().enumerate() {
        let mut entries = policy.iter();
        let (Some((name, settings)), None) = (entries.next(), entries.next()) else {
            return Err(invalid(
                &format!("{path}[{place}]"),
                "must name exactly one policy",
            ));
        };
        let known = BALANCERS
            .iter()
            .chain(&OUTLIER_DETECTION)
            .any(|known| known == name);
        if known && first.is_none() {
            first = Some((format!("{path}[{place}].{name}"), name.as_str(), settings));
        }
    }
    if first.is_none() && !listed.is_empty() {
        let known = [&BALANCERS[..], &OUTLIER_DETECTION[..]].concat().join(", ");
        let reason = format!("none of these is supported; known are {known}");
        return Err(invalid(path, &reason));
    }
    Ok(first)
}

fn read_outlier_detection(path: String, settings: &Value) -> Result<OutlierDetection, Error> {
    let at = |field: &str| format!("{path}.{field}");
    check_objects(&path, settings)?;
    let config: OutlierDetectionConfig = serde_path_to_error::deserialize(settings)
        .map_err(|error| invalid(&at(&error.path().to_string()), &error.inner().to_string()))?;
    check_child(&at("childPolicy"), &config.child_policy.unwrap_or_default())?;
    let interval = config.interval.unwrap_or(INTERVAL);
    if interval < MIN_INTERVAL {
        return Err(invalid(&at("interval"), "must be at least 0.01s"));
    }
    let base = config.base_ejection_time.unwrap_or(BASE_EJECTION_TIME);
    let max = config
        .max_ejection_time
        .unwrap_or_else(|| base.max(MAX_EJECTION_TIME));
    if max < base {
        let reason = format!("must be at least the baseEjectionTime of {}s", base.as_secs_f64());
        return Err(invalid(&at("maxEjectionTime"), &reason));
    }
    Ok(OutlierDetection {
        interval,
        base_ejection_time: base,
        max_ejection_time: max,
        max_ejection_percent: config.max_ejection_percent,
        success_rate: config.success_rate_ejection.map(SuccessRateEjection::from),
        failure_percentage: config
            .failure_percentage_ejection
            .map(FailurePercentageEjection::from),
        source: path,
    })
}

/// Lists are accepted in place of objects by the deserializer, which takes their elements for the fields in order.
fn check_objects(path: &str, settings: &Value) -> Result<(), Error> {
    let Value::Object(fields) = settings else {
        return Err(invalid(path, "must be an object"));
    };
    for algorithm in ["successRateEjection", "failurePercentageEjection"] {
        if fields.get(algorithm).is_some_and(Value::is_array) {
            return Err(invalid(&format!("{path}.{algorithm}"), "must be an object"));
        }
    }
    Ok(())
}

/// The child is the mesh's own balancer.
fn check_child(path: &str, listed: &[Policy]) -> Result<(), Error> {
    match first_known(path, listed)? {
        None => Err(invalid(path, "is required, such as [{\"round_robin\": {}}]")),
        Some((path, name, _)) if OUTLIER_DETECTION.contains(&name) => {
            Err(invalid(&path, "must not be nested in another outlier detection"))
        }
        Some(_) => Ok(()),
    }
}

impl From<SuccessRateConfig> for SuccessRateEjection {
    fn from(config: SuccessRateConfig) -> SuccessRateEjection {
        let default = SuccessRateEjection::default();
        SuccessRateEjection {
            stdev_factor: config.stdev_factor.unwrap_or(default.stdev_factor),
            enforcement_percentage: config
                .enforcement_percentage
                .unwrap_or(default.enforcement_percentage),
            minimum_hosts: config.minimum_hosts.unwrap_or(default.minimum_hosts),
            request_volume: config.request_volume.unwrap_or(default.request_volume),
        }
    }
}

impl From<FailurePercentageConfig> for FailurePercentageEjection {
    fn from(config: FailurePercentageConfig) -> FailurePercentageEjection {
        let default = FailurePercentageEjection::default();
        FailurePercentageEjection {
            threshold: config.threshold.unwrap_or(default.threshold),
            enforcement_percentage: config
                .enforcement_percentage
                .unwrap_or(default.enforcement_percentage),
            minimum_hosts: config.minimum_hosts.unwrap_or(default.minimum_hosts),
            request_volume: config.request_volume.unwrap_or(default.request_volume),
        }
    }
}

#[cfg(test)]
mod tests;
