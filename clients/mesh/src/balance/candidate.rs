//! An endpoint that an attempt may be sent to.

use std::sync::Arc;

use crate::endpoint::Endpoint;

/// A connected endpoint and its outlier score.
pub(super) struct Candidate<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    /// See [`OutlierScore::value`](crate::endpoint::latency_outlier::OutlierScore::value).
    pub(super) outlier_score: Option<f64>,
}

impl Candidate<'_> {
    pub(super) fn slow(&self) -> bool {
        self.endpoint.stats.slow()
    }
}
