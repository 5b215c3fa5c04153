//! The statistics of one interval: which endpoints succeed much less often than the others.

use super::{FailurePercentageEjection, SuccessRateEjection};

/// Percentage points. Equal rates may differ from their mean by a rounding error, which is no difference.
const ROUNDING_ERROR: f64 = 1e-9;

/// The results of one endpoint's calls in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) calls: u32,
    pub(crate) failures: u32,
}

/// An endpoint that one of the algorithms has detected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outlier {
    /// The endpoint's index among the results.
    pub(crate) endpoint: usize,
    /// The detection method, as gRFC A91 names it.
    pub(crate) method: &'static str,
    /// The figures by which it was detected.
    pub(crate) reason: String,
    /// The probability that it is ejected. Percent.
    pub(crate) enforcement_percentage: u32,
}

impl Counts {
    /// Counts a call.
    pub(crate) fn add(&mut self, failed: bool) {
        self.calls = self.calls.saturating_add(1);
        self.failures = self.failures.saturating_add(u32::from(failed));
    }

    /// Percent; there must be calls.
    fn failure_percentage(self) -> f64 {
        f64::from(self.failures) * 100.0 / f64::from(self.calls)
    }

    /// Percent; there must be calls.
    fn success_rate(self) -> f64 {
        f64::from(self.calls.saturating_sub(self.failures)) * 100.0 / f64::from(self.calls)
    }
}

impl SuccessRateEjection {
    /// The outliers, the worst first.
    pub(crate) fn outliers(&self, results: &[Counts]) -> Vec<Outlier> {
        let considered = considered(results, self.request_volume, self.minimum_hosts);
        let rates = || considered.iter().map(|(_, counts)| counts.success_rate());
        let count = considered.len() as f64;
        let mean = rates().sum::<f64>() / count;
        let variance = rates().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
        let threshold = mean - variance.sqrt() * f64::from(self.stdev_factor) / 1000.0;
        let below = |counts: &Counts| threshold - counts.success_rate() > ROUNDING_ERROR;
        let outliers = considered.iter().filter(|(_, counts)| below(counts));
        let outlier = |(endpoint, counts): &(usize, Counts)| Outlier {
            endpoint: *endpoint,
            method: "success_rate",
            reason: format!(
                "success rate {}, mean {}",
                percent(counts.success_rate()),
                percent(mean)
            ),
            enforcement_percentage: self.enforcement_percentage,
        };
        outliers.map(outlier).collect()
    }
}

impl FailurePercentageEjection {
    /// The outliers, the worst first.
    pub(crate) fn outliers(&self, results: &[Counts]) -> Vec<Outlier> {
        let threshold = f64::from(self.threshold);
        let outliers = considered(results, self.request_volume, self.minimum_hosts)
            .into_iter()
            .filter(|(_, counts)| counts.failure_percentage() > threshold);
        let outlier = |(endpoint, counts): (usize, Counts)| Outlier {
            endpoint,
            method: "failure_percentage",
            reason: format!(
                "failure percentage {}, threshold {}",
                percent(counts.failure_percentage()),
                percent(threshold)
            ),
            enforcement_percentage: self.enforcement_percentage,
        };
        outliers.map(outlier).collect()
    }
}

/// The endpoints with enough calls and their results, the lowest success rate first; none if there are too few of
/// them.
fn considered(results: &[Counts], request_volume: u32, minimum_hosts: u32) -> Vec<(usize, Counts)> {
    let enough = |counts: &Counts| counts.calls >= request_volume.max(1);
    let results = results.iter().copied().enumerate();
    let mut considered: Vec<_> = results.filter(|(_, counts)| enough(counts)).collect();
    if considered.len() < minimum_hosts as usize {
        return Vec::new();
    }
    considered.sort_by(|(_, a), (_, b)| a.success_rate().total_cmp(&b.success_rate()));
    considered
}

/// With one decimal, unless that is 0.
fn percent(value: f64) -> String {
    let text = format!("{value:.1}");
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_100(successes: &[u32]) -> Vec<Counts> {
        let counts = |successes: &u32| Counts {
            calls: 100,
            failures: 100 - successes,
        };
        successes.iter().map(counts).collect()
    }

    fn endpoints(outliers: &[Outlier]) -> Vec<usize> {
        outliers.iter().map(|outlier| outlier.endpoint).collect()
    }

    #[test]
    fn a_success_rate_far_below_the_mean_is_an_outlier() {
        let rule = SuccessRateEjection::default();
        let outliers = rule.outliers(&of_100(&[99, 99, 60, 99, 99, 99]));
        assert_eq!(endpoints(&outliers), [2]);
        assert_eq!(outliers[0].reason, "success rate 60 %, mean 92.5 %");
        // Of five, four of which are equal, the fifth is 2.0 standard deviations below the mean; of four 1.73.
        assert_eq!(endpoints(&rule.outliers(&of_100(&[99, 99, 60, 99, 99]))), [2]);
        let four = SuccessRateEjection {
            minimum_hosts: 4,
            ..rule
        };
        assert!(four.outliers(&of_100(&[99, 99, 60, 99])).is_empty());
        assert!(
            rule.outliers(&of_100(&[90, 95, 92, 99, 97, 94])).is_empty(),
            "usual differences"
        );
    }

    #[test]
    fn the_stdev_factor_counts_in_thousandths() {
        let results = of_100(&[99, 99, 60, 99, 99]);
        for (stdev_factor, found) in [(1_999, 1), (2_001, 0)] {
            let rule = SuccessRateEjection {
                stdev_factor,
                ..SuccessRateEjection::default()
            };
            assert_eq!(rule.outliers(&results).len(), found, "{stdev_factor}");
        }
    }

    #[test]
    fn equal_endpoints_are_no_outliers_whatever_the_factor() {
        for (failures, hosts) in [(0, 5), (1, 3), (1, 6), (2, 7), (3, 11)] {
            let rule = SuccessRateEjection {
                stdev_factor: 0,
                minimum_hosts: 1,
                request_volume: 1,
                ..SuccessRateEjection::default()
            };
            let results = vec![Counts { calls: 3, failures }; hosts];
            assert!(rule.outliers(&results).is_empty(), "{failures} {hosts}");
        }
    }

    #[test]
    fn more_failures_than_the_threshold_are_an_outlier_and_the_worst_is_first() {
        let rule = FailurePercentageEjection {
            threshold: 30,
            ..FailurePercentageEjection::default()
        };
        let outliers = rule.outliers(&of_100(&[70, 69, 99, 10, 100]));
        assert_eq!(endpoints(&outliers), [3, 1], "30 % is not more than 30 %");
        assert_eq!(outliers[0].reason, "failure percentage 90 %, threshold 30 %");
    }

    #[test]
    fn endpoints_with_too_few_calls_are_not_considered() {
        let rule = FailurePercentageEjection::default();
        let mut results = of_100(&[0, 99, 99, 99, 99]);
        let few = |counts: &mut Counts, calls| {
            *counts = Counts {
                calls,
                failures: calls,
            }
        };
        few(&mut results[0], 50);
        assert_eq!(endpoints(&rule.outliers(&results)), [0]);
        few(&mut results[0], 49);
        results.push(results[1]);
        assert!(rule.outliers(&results).is_empty(), "one call is missing");
        // Five endpoints have calls enough, and then four.
        few(&mut results[1], 50);
        assert_eq!(endpoints(&rule.outliers(&results)), [1]);
        few(&mut results[2], 1);
        assert!(rule.outliers(&results).is_empty(), "one endpoint is missing");
        let any = FailurePercentageEjection {
            request_volume: 0,
            minimum_hosts: 0,
            ..rule
        };
        let results = [
            Counts::default(),
            Counts {
                calls: 1,
                failures: 1,
            },
        ];
        assert_eq!(endpoints(&any.outliers(&results)), [1]);
        assert!(any.outliers(&[]).is_empty());
    }
}
