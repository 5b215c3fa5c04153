//! The command line: all commands with the options of every command. Only `main` imports this module.

mod parse;
mod unused_options;

use clap::{Parser, Subcommand};
pub(crate) use parse::parse;

use crate::{
    claim, demo, dlq, events, globals::Globals, ledger, mesh_policy, order, payment, remittance, saga, token,
    up,
};

/// Orders, payments and claims from the command line; `weft up` runs all of it on this machine.
#[derive(Debug, Parser)]
#[command(name = "weft", version = env!("WEFT_BUILD"), propagate_version = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
Every option can also come from the environment: WEFT_OUTPUT, WEFT_FACILITY, WEFT_ORDER_URL, …
Start with: weft up";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run PostgreSQL, NATS and all services on this machine until Ctrl-C
    Up(up::Arguments),
    /// Stop what `weft up` runs
    Down,
    /// Show what `weft up` runs
    Status,
    /// Import five eClaimLink files into a fresh system and show what becomes of them
    Demo(demo::Arguments),
    /// Print addresses, a token and certificate files as shell variables, for `eval "$(weft env)"`
    Env,
    /// Mint a token from the local key
    Token(token::Arguments),
    /// Place orders, and see them through
    #[command(subcommand)]
    Order(order::Command),
    /// Look at payments, and pay what waits for a payment method
    #[command(subcommand)]
    Payment(payment::Command),
    /// Look at claims, file them again, withdraw them
    #[command(subcommand)]
    Claim(claim::Command),
    /// Import what payers answer
    #[command(subcommand)]
    Remittance(remittance::Command),
    /// Read the double-entry ledger
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Look at sagas, and help those that are stuck
    #[command(subcommand)]
    Saga(saga::Command),
    /// Dead letters: events that a consumer could not process
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Look after what the services publish, and who consumes it
    #[command(subcommand)]
    Events(events::Command),
    /// Show how methods are called, and how the calls between the services fare
    #[command(subcommand)]
    Mesh(mesh_policy::Command),
}

impl Command {
    /// Whether the command sends a request with the id of `--request-id`. The request ids of an import are derived
    /// from its file.
    pub(crate) fn takes_request_id(&self) -> bool {
        use order::Command as Order;
        match self {
            Command::Order(order) => matches!(
                order,
                Order::Place(_)
                    | Order::Fulfil { .. }
                    | Order::Cancel { .. }
                    | Order::Refund(_)
                    | Order::Resolve(_)
            ),
            Command::Payment(payment) => matches!(payment, payment::Command::Pay { .. }),
            Command::Claim(claim) => {
                matches!(
                    claim,
                    claim::Command::Resubmit(_) | claim::Command::Withdraw { .. }
                )
            }
            Command::Remittance(remittance) => matches!(
                remittance,
                remittance::Command::Book(_) | remittance::Command::Discard(_)
            ),
            Command::Saga(saga) => !matches!(saga, saga::Command::List { .. } | saga::Command::Show { .. }),
            Command::Dlq(dlq) => matches!(
                dlq,
                dlq::Command::Replay(_)
                    | dlq::Command::Edit(_)
                    | dlq::Command::Approve { .. }
                    | dlq::Command::Discard { .. }
            ),
            Command::Events(events) => events.takes_request_id(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_accepts_an_order_by_its_reference() {
        use clap::Parser as _;
        for arguments in [
            "order get R-1",
            "saga list --order R-1",
            "ledger balance --order R-1",
            "ledger entries --order R-1",
            "payment get --order R-1",
            "payment list --order R-1",
            "payment pay R-1 --payment-method m",
            "claim list --order R-1",
            "claim withdraw --order R-1",
        ] {
            let read = super::Cli::try_parse_from(["weft"].into_iter().chain(arguments.split(' ')));
            assert!(read.is_ok(), "{arguments}: {:?}", read.err());
        }
    }

    #[test]
    fn usage_shows_every_form_of_a_command() {
        use clap::Parser as _;
        let id = "018f2d5e-0000-7000-8000-000000000001";
        let (by_id, by_order) = (
            "weft payment get [OPTIONS] <PAYMENT>",
            "weft payment get [OPTIONS] --order <ORDER> [--purpose <PURPOSE>]",
        );
        let (one, many) = (
            "weft dlq replay [OPTIONS] <DEAD_LETTER> [--dry-run | --wait <WAIT>]",
            "weft dlq replay [OPTIONS] <--group <FINGERPRINT>|--all> [--canary] [--rate <RATE>] [--wait <WAIT>]",
        );
        for (arguments, usages) in [
            ("payment get", [by_id, by_order]),
            ("payment get --purpose balance", [by_id, by_order]),
            (&format!("payment get {id} --order R-1"), [by_id, by_order]),
            ("payment get --help", [by_id, by_order]),
            ("dlq replay", [one, many]),
            ("dlq replay --canary", [one, many]),
            ("dlq replay --all --group f", [one, many]),
            ("dlq replay --all --dry-run", [one, many]),
            (&format!("dlq replay {id} --all"), [one, many]),
            (&format!("dlq replay {id} --rate 5"), [one, many]),
            ("dlq replay --help", [one, many]),
        ] {
            let refused = super::Cli::try_parse_from(["weft"].into_iter().chain(arguments.split(' ')));
            let message = refused.expect_err(arguments).to_string();
            for usage in usages {
                assert!(message.contains(usage), "{arguments}: {message}");
            }
        }
        for arguments in [
            format!("payment get {id}"),
            "payment get --order R-1 --purpose balance".to_owned(),
            format!("dlq replay {id} --dry-run"),
            format!("dlq replay {id} --wait 1s"),
            "dlq replay --group f --canary --rate 5 --wait 1s".to_owned(),
            "dlq replay --all".to_owned(),
        ] {
            let read = super::Cli::try_parse_from(["weft"].into_iter().chain(arguments.split(' ')));
            assert!(read.is_ok(), "{arguments}: {:?}", read.err());
        }
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        use clap::Parser as _;
        for arguments in [
            "order place --request f --capture immediate",
            "order place --request f --payment-method m",
            "order place --request f --patient p",
            "order place --request f --reference r",
            "order place --request f --currency GBP",
            "order place --request f --line A:1:1",
            "payment get 018f2d5e-0000-7000-8000-000000000001 --purpose balance",
        ] {
            let refused = super::Cli::try_parse_from(["weft"].into_iter().chain(arguments.split(' ')));
            assert!(refused.is_err(), "{arguments}");
        }
        let check =
            "weft order place --request f --validate-only --request-id 018f2d5e-0000-7000-8000-000000000001";
        assert!(super::Cli::try_parse_from(check.split(' ')).is_ok());
    }

    #[test]
    fn a_facility_or_a_subject_that_the_services_refuse_is_refused_here() {
        use clap::Parser as _;
        let (long, service) = ("f".repeat(65), "service:order");
        for arguments in [
            vec!["token", "--facility", "al noor"],
            vec!["order", "list", "--facility", &long],
            vec!["token", "--subject", service],
            vec!["token", "--subject", "a\nb"],
        ] {
            let read = super::Cli::try_parse_from(["weft"].into_iter().chain(arguments.iter().copied()));
            assert!(read.is_err(), "{arguments:?}");
        }
    }

    /// clap can parse a UUID by itself, but its errors speak of characters and groups.
    #[test]
    fn every_argument_that_is_a_uuid_says_so_when_it_is_not_one() {
        use clap::Parser as _;
        for arguments in [
            "saga show x",
            "saga retry x",
            "saga skip x --reason because",
            "dlq show x",
            "dlq replay x",
            "dlq approve x",
            "dlq discard x --reason because",
            "dlq edit x --body f --reason because",
            "payment get x",
            "order place --line A:1:1 --request-id x",
        ] {
            let refused = super::Cli::try_parse_from(["weft"].into_iter().chain(arguments.split(' ')));
            let refused = refused.expect_err(arguments).to_string();
            assert!(refused.contains("must be a UUID"), "{arguments}: {refused}");
        }
    }
}
