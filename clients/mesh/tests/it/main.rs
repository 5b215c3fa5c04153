//! The channel against real tonic servers in this process, on free ports.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

mod echo;

mod balancing;
mod connections;
mod deadlines;
mod hedging;
mod kubernetes;
mod kubernetes_api;
mod one_way_tls;
mod operations;
mod outlier_detection;
mod proxies;
mod refusals;
mod retries;
mod routes;
mod telemetry;
mod tls;
mod unix_sockets;
