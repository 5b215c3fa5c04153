//! Options of every command where they would have no effect: whoever gives one expects something of it.

use clap::{ArgMatches, parser::ValueSource};

use super::{Cli, Command};

/// How services are called, by the names that clap knows the options by.
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

/// What is wrong with an option that the command line gives, if this command does not heed it. What the environment sets is
/// meant for other commands, too.
pub(super) fn find(cli: &Cli, matches: &ArgMatches) -> Option<String> {
    if cli.globals.request_id.is_some() && !cli.command.takes_request_id() {
        let message = "--request-id names a request that changes something, and this command sends none";
        return Some(message.to_owned());
    }
    let (command, why) = match cli.command {
        Command::Up(_) => ("weft up", "it runs the services"),
        Command::Down => ("weft down", "it stops the local system"),
        Command::Status => ("weft status", "it looks at the local system alone"),
        Command::Demo(_) => ("weft demo", "it has a system and a facility of its own"),
        Command::Token(_) => ("weft token", "it mints a token and calls nobody"),
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
    fn a_request_id_is_refused_where_nothing_is_changed() {
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
    fn commands_of_the_local_system_refuse_what_they_do_not_heed() {
        for (line, option) in [
            ("weft demo --facility F1", "--facility"),
            ("weft --order-url http://127.0.0.1:1 demo", "--order-url"),
            ("weft demo --token t", "--token"),
            ("weft up --timeout 5s", "--timeout"),
            ("weft status --claims-url http://127.0.0.1:1", "--claims-url"),
            ("weft down --allow-plaintext", "--allow-plaintext"),
            ("weft token --payment-url http://127.0.0.1:1", "--payment-url"),
        ] {
            let told = read(line).unwrap_err();
            assert!(
                told.contains(&format!("has no use for {option}")),
                "{line}: {told}"
            );
        }
        read("weft token --facility F1").unwrap();
        read("weft up --facility F1").unwrap();
        read("weft --dir d up").unwrap();
        read("weft status --output json").unwrap();
    }
}
