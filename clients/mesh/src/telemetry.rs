//! Spans and metrics of calls and attempts.

pub(crate) mod span;
