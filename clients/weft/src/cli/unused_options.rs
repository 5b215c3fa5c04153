//! Refuses options of every command where they would have no effect.

use clap::{ArgMatches, parser::ValueSource};

use super::{Cli, Command};

/// Options that affect calls to services: clap's id and the option.
const CALL_OPTIONS: [(&str, &str); 10] = [
    ("token", "--token"),
    ("order_url", "--order-url"),
    ("payment_url", "--payment-url"),
    ("claims_url", "--claims-url"),
    ("ca", "--ca"),
    ("cert", "--cert"),
    ("key", "--key"),
    ("trust_domain", "--trust-domain"),
    ("allow_plaintext", "--allow-plaintext"),
    ("timeout", "--timeout"),
];

/// The error message for an option on the command line that this command does not use. Environment variables are
/// accepted, because they may be meant for other commands.
pub(super) fn find(cli: &Cli, matches: &ArgMatches) -> Option<String> {
    if cli.globals.request_id.is_some() && !cli.command.takes_request_id() {
        let message = "--request-id names a request that changes something, and this command sends none";
        return Some(message.to_owned());
    }
    let (command, why) = match cli.command {
        Command::Up(_) => ("weft up", "it runs the services"),
        Command::Down => ("weft down", "it stops the local system"),
        Command::Status => ("weft status", "it shows only the local system"),
        Command::Demo(_) => ("weft demo", "it has a system and a facility of its own"),
        Command::Token(_) => ("weft token", "it mints a token and calls no service"),
        _ => return None,
    };
    let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let mut options = CALL_OPTIONS.to_vec();
    if matches!(cli.command, Command::Down | Command::Status | Command::Demo(_)) {
        options.push(("facility", "--facility"));
    }
    let (_, option) = options.into_iter().find(|(id, _)| is_given(id))?;
    Some(format!("{command} has no use for {option}: {why}"))
}

#[cfg(test)]
mod tests {
    use crate::cli::parse;

    fn read(line: &str) -> Result<(), String> {
        let arguments = line.split(' ').map(Into::into);
        parse(arguments).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_id_is_refused_by_a_command_that_changes_nothing() {
        let id = "018f2d5e-0000-7000-8000-000000000001";
        assert!(read(&format!("weft order list --request-id {id}")).is_err());
        for changing in [
            "order cancel R",
            "dlq replay --all",
            "saga retry 018f2d5e-0000-7000-8000-000000000002",
        ] {
            read(&format!("weft {changing} --request-id {id}")).unwrap();
        }
    }

    #[test]
    fn commands_of_the_local_system_refuse_options_that_they_do_not_use() {
        for (line, option) in [
            ("weft demo --facility F1", "--facility"),
            ("weft --order-url http://127.0.0.1:1 demo", "--order-url"),
            ("weft demo --token t", "--token"),
            ("weft up --timeout 5s", "--timeout"),
            ("weft status --claims-url http://127.0.0.1:1", "--claims-url"),
            ("weft down --allow-plaintext", "--allow-plaintext"),
            ("weft token --payment-url http://127.0.0.1:1", "--payment-url"),
        ] {
            let message = read(line).unwrap_err();
            assert!(
                message.contains(&format!("has no use for {option}")),
                "{line}: {message}"
            );
        }
        read("weft token --facility F1").unwrap();
        read("weft up --facility F1").unwrap();
        read("weft --dir d up").unwrap();
        read("weft status --output json").unwrap();
    }
}
