//! Scenarios on real servers. One binary, so that one PostgreSQL server serves them all.

// In a scenario an unwrap is an assertion; clippy allows it by itself only inside the test functions.
#![allow(clippy::unwrap_used)]

mod architecture;
mod asyncapi;
mod chassis_answers;
mod chassis_audit;
mod chassis_database;
mod claims_filing;
mod claims_isolation;
mod claims_killed_import;
mod claims_remittances;
mod claims_rig;
mod claims_rules;
mod claims_story;
mod cli_eclaimlink;
mod cli_events;
mod cli_mesh;
mod cli_retail;
mod cli_rig;
mod cli_up;
mod contract;
mod ended_orders;
mod events_consumers;
mod events_dead_letters;
mod events_operators;
mod events_path;
mod events_python;
mod events_rebuild;
mod events_rig;
mod events_second_looks;
mod events_story;
mod faulty_links;
mod foreign_clients;
mod grpcurl;
mod harness;
mod health;
mod killed_import;
mod order_endings;
mod order_place;
mod order_repeats;
mod order_rig;
mod order_settlement;
mod payment_cards;
mod payment_ledger;
mod payment_repeats;
mod payment_rig;
mod payment_sandbox;
mod payment_unknown;
mod samples;
mod service_config;
mod telemetry;
mod validation;
