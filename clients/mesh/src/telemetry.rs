//! Spans and metrics of calls and attempts.
//!
//! A call has a span and a duration as the application sees it, retries included; each of its attempts has its
//! own, so that both the effective and the actual success rate are visible.

mod calls;
pub(crate) mod metrics;
mod repetitions;
mod running;
pub(crate) mod span;
mod traffic;

pub(crate) use calls::Calls;
pub(crate) use metrics::Metrics;
pub(crate) use repetitions::Repetitions;
pub(crate) use running::{Measured, Running};
