# What can be done with Weft: `make help`. The tools that scripts/setup installs come first on PATH.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
export PATH := $(CURDIR)/.tools/bin:$(PATH)

RELEASED := proto/released.binpb
# All modules as one image: buf compares images one to one.
image := buf build --exclude-source-info -o
WITH_SQL := chassis events order payment claims
step := @scripts/step

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what building and testing needs (idempotent)
	$(step) "set-up" scripts/setup

.PHONY: build
build: ## Build the services and the command line
	$(step) "build" cargo build --workspace --bins

.PHONY: demo
demo: setup build ## Import five eClaimLink files into a running system and show what becomes of them
	@target/debug/weft demo

.PHONY: test
test: setup fmt-check lint contracts deny k8s-validate alerts sqlx-check build k8s-settings unit greeter fresh-set-up-where-possible ## Everything that CI checks

.PHONY: fresh
fresh: ## Run `make demo` and `make test` in a bare Debian root with a Rust toolchain alone (needs root; half an hour)
	$(step) "fresh machine" scripts/fresh

.PHONY: fresh-set-up
fresh-set-up: ## Run the set-up, and build what needs system parts, in a bare Debian root
	$(step) "set-up on a fresh machine" scripts/fresh --set-up

.PHONY: fresh-set-up-where-possible
fresh-set-up-where-possible:
	$(step) "set-up on a fresh machine" scripts/fresh --set-up-where-possible

.PHONY: unit
unit: ## Run the tests alone (they need `make setup` and `make build`)
	$(step) "tests" cargo test --workspace

.PHONY: greeter
greeter: ## Test examples/greeter, a project of its own, against the packages of the mesh's crates
	$(step) "greeter" scripts/greeter

.PHONY: load
load: ## Run the mesh's scenarios for longer than `make test` does, with their figures
	@cargo test -p tests --test it -- mesh_ --ignored --nocapture --test-threads 1

.PHONY: chaos
chaos: ## Kill relay, consumer, NATS and PostgreSQL 120 times while 50,000 events flow (some minutes)
	$(step) "chaos" cargo test --package tests --test it -- --ignored --nocapture a_long_storm_of_kills

.PHONY: bench-events
bench-events: ## Measure the event backbone (builds with optimisation)
	$(step) "events bench" cargo bench --package tests --bench events

.PHONY: bench-tables
bench-tables: ## Measure lists on tables of ten million rows (needs 30 GB of disk and half an hour; builds with optimisation)
	$(step) "tables bench" cargo bench --package tests --bench tables

.PHONY: bench-orders
bench-orders: ## Measure how many orders a second the system carries and what one costs (half an hour; ARGS="--help" explains)
	$(step) "release build" cargo build --release --bin weft --bin order --bin payment --bin claims
	$(step) "orders bench" cargo bench --package tests --bench orders -- $(ARGS)

.PHONY: fmt
fmt: ## Format the Rust sources and the contracts
	$(step) "format" cargo fmt --all
	$(step) "format the contracts" buf format -w

.PHONY: fmt-check
fmt-check:
	$(step) "format check" cargo fmt --all --check

.PHONY: lint
lint: ## Run clippy on everything, warnings are errors
	$(step) "clippy" cargo clippy --workspace --all-targets -- -D warnings

.PHONY: contracts
contracts: ## Lint the contracts and compare them with the last release
	$(step) "contracts: format" buf format --diff --exit-code
	$(step) "contracts: lint" buf lint
	$(step) "contracts: breaking changes" bash -c '$(image) - | buf breaking - --against $(RELEASED)'

.PHONY: release-contract
release-contract: ## Make the contracts as they are now the released ones (commit the file it writes)
	$(step) "release the contracts" $(image) $(RELEASED)

.PHONY: service-config
service-config: ## Renew the service configs of clients in other languages from the contract
	$(step) "service configs" cargo run --quiet -p tests --example service_config -- clients/service-config

.PHONY: asyncapi
asyncapi: ## Renew docs/asyncapi.json, the description of the events, from the contract
	$(step) "AsyncAPI document" cargo run --quiet -p events --example asyncapi -- docs/asyncapi.json

.PHONY: deny
deny: ## Check licences, banned crates and who imports whom
	$(step) "licences and bans" cargo deny --log-level error check --hide-inclusion-graph -A unused-wrapper bans licenses sources

.PHONY: k8s-validate
k8s-validate: ## Check the Kubernetes manifests against its schemas
	$(step) "Kubernetes manifests" scripts/k8s-validate

.PHONY: alerts
alerts: ## Check and test the Prometheus alerts
	$(step) "alerts: rules" promtool check rules k8s/alerts/weft.rules.yaml
	$(step) "alerts: tests" promtool test rules k8s/alerts/weft.test.yaml

.PHONY: k8s-settings
k8s-settings:
	$(step) "Kubernetes settings" scripts/k8s-validate --settings target/debug

.PHONY: sqlx-prepare
sqlx-prepare: ## Renew the checked-in descriptions of the SQL queries from the migrations
	@for crate in $(WITH_SQL); do scripts/step "describe queries: $$crate" scripts/sqlx-prepare $$crate; done

.PHONY: sqlx-check
sqlx-check: ## Compare the checked-in descriptions of the SQL queries with the migrations
	@for crate in $(WITH_SQL); do scripts/step "query descriptions: $$crate" scripts/sqlx-prepare --check $$crate; done
