//! Outlier detection by statistics (gRFC A50): the policy, and which endpoints are outliers.
//!
//! The supervisor's sweep compares the results of all endpoints at each interval. The breaker of an endpoint counts
//! them, and carries out the ejections.

mod statistics;

use std::time::Duration;

use serde::Serialize;
pub(crate) use statistics::{Counts, Outlier};

/// The defaults of gRFC A50.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
pub(crate) const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
const MAX_EJECTION_PERCENT: u32 = 10;

/// The policy `outlier_detection` of a service config.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutlierDetection {
    /// The policy's path in the service config.
    pub(crate) source: String,
    /// The time between two sweeps.
    pub(crate) interval: Duration,
    /// The length of an endpoint's first ejection.
    pub(crate) base_ejection_time: Duration,
    /// The maximum length of an ejection; at least `base_ejection_time`.
    pub(crate) max_ejection_time: Duration,
    /// The maximum share of the endpoints that may be ejected, 0 to 100; `None`: not configured.
    pub(crate) max_ejection_percent: Option<u32>,
    pub(crate) success_rate: Option<SuccessRateEjection>,
    pub(crate) failure_percentage: Option<FailurePercentageEjection>,
}

/// Ejects endpoints whose success rate is far below the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SuccessRateEjection {
    /// An endpoint is an outlier if its success rate is below the mean by more than this many thousandths of the
    /// standard deviation. Default 1900.
    pub stdev_factor: u32,
    /// The probability that a detected outlier is ejected. Percent, 0 to 100, default 100.
    pub enforcement_percentage: u32,
    /// The number of endpoints with `request_volume` calls below which none is an outlier. Default 5.
    pub minimum_hosts: u32,
    /// The number of calls in an interval below which an endpoint is not considered. Default 100.
    pub request_volume: u32,
}

/// Ejects endpoints of whose calls more than a given share fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FailurePercentageEjection {
    /// An endpoint is an outlier if more than this share of its calls fails. Percent, 0 to 100, default 85.
    pub threshold: u32,
    /// The probability that a detected outlier is ejected. Percent, 0 to 100, default 100.
    pub enforcement_percentage: u32,
    /// The number of endpoints with `request_volume` calls below which none is an outlier. Default 5.
    pub minimum_hosts: u32,
    /// The number of calls in an interval below which an endpoint is not considered. Default 50.
    pub request_volume: u32,
}

impl OutlierDetection {
    /// Whether there is anything to detect: without an algorithm the policy has no sweeps.
    pub(crate) fn has_algorithm(&self) -> bool {
        self.success_rate.is_some() || self.failure_percentage.is_some()
    }

    /// The maximum share of the endpoints that the algorithms may eject. Percent.
    pub(crate) fn max_ejection_percent(&self) -> u32 {
        self.max_ejection_percent.unwrap_or(MAX_EJECTION_PERCENT)
    }

    /// The length of an ejection. The multiplier is 1 for the first.
    pub(crate) fn ejection_time(&self, multiplier: u32) -> Duration {
        let time = self.base_ejection_time.checked_mul(multiplier);
        time.unwrap_or(Duration::MAX).min(self.max_ejection_time)
    }

    /// The outliers among endpoints with these results of an interval: those of each algorithm, the worst first. An
    /// endpoint may be an outlier by both algorithms.
    pub(crate) fn outliers(&self, results: &[Counts]) -> Vec<Outlier> {
        let by_success_rate = self.success_rate.iter().flat_map(|rule| rule.outliers(results));
        let by_failures = self
            .failure_percentage
            .iter()
            .flat_map(|rule| rule.outliers(results));
        by_success_rate.chain(by_failures).collect()
    }
}

impl Default for SuccessRateEjection {
    fn default() -> SuccessRateEjection {
        SuccessRateEjection {
            stdev_factor: 1_900,
            enforcement_percentage: 100,
            minimum_hosts: 5,
            request_volume: 100,
        }
    }
}

impl Default for FailurePercentageEjection {
    fn default() -> FailurePercentageEjection {
        FailurePercentageEjection {
            threshold: 85,
            enforcement_percentage: 100,
            minimum_hosts: 5,
            request_volume: 50,
        }
    }
}
