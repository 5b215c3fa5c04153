//! `loadBalancingConfig`, and its outlier detection.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{
    invalid,
    policies::{Kind, Policy, Selected, select},
    routes,
    scalars::{duration, number},
};
use crate::{
    Error,
    outlier_detection::{
        BASE_EJECTION_TIME, FailurePercentageEjection, INTERVAL, MAX_EJECTION_TIME, OutlierDetection,
        SuccessRateEjection,
    },
    route::Routes,
};

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

/// What `loadBalancingConfig` says beside the choice of the mesh's own balancer.
#[derive(Debug, Default)]
pub(super) struct Balancing {
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) routes: Option<Routes>,
}

/// Reads `loadBalancingConfig`: routes, or an outlier detection, which may contain routes.
pub(super) fn read(listed: &[Policy]) -> Result<Balancing, Error> {
    let Some(selected) = select("loadBalancingConfig", listed)? else {
        return Ok(Balancing::default());
    };
    match selected.kind {
        Kind::Balancer => Ok(Balancing::default()),
        Kind::Routes => Ok(Balancing {
            routes: Some(routes::read(&selected)?),
            ..Balancing::default()
        }),
        Kind::OutlierDetection => {
            let (outlier_detection, routes) = read_outlier_detection(selected)?;
            Ok(Balancing {
                outlier_detection: Some(outlier_detection),
                routes,
            })
        }
    }
}

fn read_outlier_detection(selected: Selected<'_>) -> Result<(OutlierDetection, Option<Routes>), Error> {
    let Selected { path, settings, .. } = selected;
    let at = |field: &str| format!("{path}.{field}");
    check_objects(&path, settings)?;
    let config: OutlierDetectionConfig = serde_path_to_error::deserialize(settings)
        .map_err(|error| invalid(&at(&error.path().to_string()), &error.inner().to_string()))?;
    let routes = read_child(&at("childPolicy"), &config.child_policy.unwrap_or_default())?;
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
    let outlier_detection = OutlierDetection {
        interval,
        base_ejection_time: base,
        max_ejection_time: max,
        max_ejection_percent: config.max_ejection_percent,
        success_rate: config.success_rate_ejection.map(SuccessRateEjection::from),
        failure_percentage: config
            .failure_percentage_ejection
            .map(FailurePercentageEjection::from),
        source: path,
    };
    Ok((outlier_detection, routes))
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

/// The child is the mesh's own balancer, or routes.
fn read_child(path: &str, listed: &[Policy]) -> Result<Option<Routes>, Error> {
    let Some(selected) = select(path, listed)? else {
        return Err(invalid(path, "is required, such as [{\"round_robin\": {}}]"));
    };
    match selected.kind {
        Kind::Balancer => Ok(None),
        Kind::Routes => routes::read(&selected).map(Some),
        Kind::OutlierDetection => Err(invalid(
            &selected.path,
            "must not be nested in another outlier detection",
        )),
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
