//! Parses the command line, and refuses empty options, variables and arguments: a script passes an empty value
//! when the command that should have produced it failed.

use std::ffi::OsString;

use clap::{
    ArgMatches, CommandFactory as _, Error, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{Cli, unused_options};

/// Parses a command line.
///
/// # Errors
/// When it is wrong, a value in it or in the environment is empty, or an option has no effect.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    reject_empty(&command, &matches)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    match unused_options::find(&cli, &matches) {
        Some(message) => Err(command.error(ErrorKind::ArgumentConflict, message)),
        None => Ok(cli),
    }
}

fn reject_empty(command: &clap::Command, matches: &ArgMatches) -> Result<(), Error> {
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        // Flags have ids without values.
        let is_known = matches.try_contains_id(id).unwrap_or(false);
        let is_given = is_known && matches.value_source(id) != Some(ValueSource::DefaultValue);
        if !is_given || !argument.get_action().takes_values() {
            continue;
        }
        let mut values = matches.get_raw(id).into_iter().flatten();
        if values.any(|value| value.to_string_lossy().trim().is_empty()) {
            let mut error = Error::new(ErrorKind::InvalidValue).with_cmd(command);
            error.insert(
                ContextKind::InvalidArg,
                ContextValue::String(argument.to_string()),
            );
            error.insert(ContextKind::InvalidValue, ContextValue::String(String::new()));
            return Err(error);
        }
    }
    match matches.subcommand() {
        Some((name, inner)) => match command.find_subcommand(name) {
            Some(subcommand) => reject_empty(subcommand, inner),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use crate::cli::Cli;

    fn refused(arguments: &[&str]) -> String {
        let arguments = std::iter::once("weft").chain(arguments.iter().copied());
        let error = super::parse(arguments.map(Into::into)).expect_err("it is refused");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn an_empty_value_is_refused_at_every_position() {
        for (arguments, option) in [
            ("order place --line A:1:1 --patient=", "--patient"),
            ("order place --line A:1:1 --reference=", "--reference"),
            ("order place --line A:1:1 --payment-method=", "--payment-method"),
            ("order import f --payment-method=", "--payment-method"),
            ("order list --code=", "--code"),
            ("order cancel R --reason=", "--reason"),
            ("claim list --payer=", "--payer"),
            ("dlq list --consumer=", "--consumer"),
            ("token --subject=", "--subject"),
            ("--facility= order list", "--facility"),
            ("order list --token=", "--token"),
            ("order list --order-url=", "--order-url"),
            ("order list --trust-domain=", "--trust-domain"),
            ("order list --timeout=", "--timeout"),
        ] {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            let message = refused(&arguments);
            assert!(message.contains(option), "{arguments:?}: {message}");
        }
        for arguments in [
            ["order", "get", ""],
            ["claim", "get", " "],
            ["mesh", "policy", ""],
        ] {
            refused(&arguments);
        }
    }

    /// Checks every option of every command.
    #[test]
    fn no_option_accepts_an_empty_value() {
        let mut weft = Cli::command();
        weft.build();
        let mut checked = 0;
        let mut commands = vec![(Vec::new(), &weft)];
        while let Some((path, command)) = commands.pop() {
            for inner in command
                .get_subcommands()
                .filter(|inner| inner.get_name() != "help")
            {
                let mut path: Vec<String> = path.clone();
                path.push(inner.get_name().to_owned());
                commands.push((path, inner));
            }
            let options = command
                .get_arguments()
                .filter(|option| option.get_action().takes_values());
            for option in options.filter_map(clap::Arg::get_long) {
                let mut line = path.clone();
                line.push(format!("--{option}="));
                let line: Vec<&str> = line.iter().map(String::as_str).collect();
                refused(&line);
                checked += 1;
            }
        }
        assert!(checked > 100, "{checked}");
    }
}
