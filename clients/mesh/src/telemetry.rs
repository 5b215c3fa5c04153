//! Spans and metrics of calls and attempts.
//!
//! A call has a span and a duration that an application would see (after retries); each attempt below it has
//! its own (before retries), so that both the effective and the actual success are visible.

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
