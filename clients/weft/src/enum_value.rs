//! Parses values of the contract's enums in options.

use std::ffi::{OsStr, OsString};

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

/// Above the highest number of the contract's enums.
const MAX_NUMBER: i32 = 64;

/// Parses an enum value by its name without the prefix, in any case: `FULFILLED`, `awaiting-payment`. The full
/// name, as in JSON, is accepted too. For an unknown name, the error lists the known ones and suggests the most
/// similar.
#[derive(Clone)]
pub(crate) struct EnumValue<E> {
    prefix: &'static str,
    values: Vec<(&'static str, E)>,
}

impl<E: TryFrom<i32> + Clone> EnumValue<E> {
    /// `name_of` is the enum's own `as_str_name`.
    pub(crate) fn new(name_of: fn(&E) -> &'static str) -> EnumValue<E> {
        let all = (0..MAX_NUMBER).filter_map(|number| E::try_from(number).ok());
        let mut all = all.map(|value| (name_of(&value), value));
        let unspecified = all.next().map(|(name, _)| name).unwrap_or_default();
        let prefix = unspecified.strip_suffix("UNSPECIFIED").unwrap_or_default();
        let values = all.map(|(name, value)| (name.strip_prefix(prefix).unwrap_or(name), value));
        EnumValue {
            values: values.collect(),
            prefix,
        }
    }

    fn names(&self) -> impl Iterator<Item = PossibleValue> + '_ {
        self.values.iter().map(|(name, _)| PossibleValue::new(*name))
    }
}

impl<E: TryFrom<i32> + Clone + Send + Sync + 'static> TypedValueParser for EnumValue<E> {
    type Value = E;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, text: &OsStr) -> Result<E, Error> {
        let text = text.to_string_lossy().to_uppercase().replace('-', "_");
        let name = text.strip_prefix(self.prefix).unwrap_or(&text);
        match self.values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => Ok(value.clone()),
            // Always fails, with clap's own error text.
            None => PossibleValuesParser::new(self.names())
                .parse_ref(command, argument, &OsString::from(name))
                .and_then(|_| Err(Error::new(clap::error::ErrorKind::InvalidValue))),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names()))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use crate::cli::Cli;

    fn read(arguments: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["weft"].into_iter().chain(arguments.split(' ')))
    }

    #[test]
    fn a_state_is_read_in_any_case_and_by_its_whole_name() {
        for state in [
            "AWAITING_PAYMENT",
            "awaiting-payment",
            "ORDER_STATE_AWAITING_PAYMENT",
        ] {
            let read = read(&format!("order list --state {state}"));
            assert!(read.is_ok(), "{state}: {:?}", read.err());
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones_and_the_most_similar() {
        for (arguments, nearest, another) in [
            ("order list --state FULFILED", "FULFILLED", "SETTLED"),
            ("payment list --state captred", "CAPTURED", "VOIDED"),
            ("claim list --state ACCEPTD", "ACCEPTED", "WITHDRAWN"),
            ("saga list --state STUC", "STUCK", "COMPLETED"),
            ("dlq list --state RESOLVD", "RESOLVED", "OPEN"),
            ("ledger entries --account CASHH", "CASH", "PAYER_RECEIVABLE"),
        ] {
            let refused = read(arguments).expect_err(arguments).to_string();
            assert!(
                refused.contains(&format!("'{nearest}'")),
                "{arguments}: {refused}"
            );
            assert!(refused.contains(another), "{arguments}: {refused}");
            assert!(!refused.contains("UNSPECIFIED"), "{refused}");
        }
    }

    #[test]
    fn help_lists_the_names_that_a_filter_takes() {
        let mut weft = Cli::command();
        weft.build();
        for (noun, verb, names) in [
            ("order", "list", ["AWAITING_PAYMENT", "FULFILLED"]),
            ("saga", "list", ["STUCK", "COMPENSATED"]),
            ("dlq", "list", ["OPEN", "DISCARDED"]),
            ("ledger", "entries", ["BAD_DEBT", "ROUNDING"]),
        ] {
            let noun_command = weft.find_subcommand_mut(noun).unwrap();
            let help = noun_command
                .find_subcommand_mut(verb)
                .unwrap()
                .render_help()
                .to_string();
            assert!(
                names.iter().all(|name| help.contains(name)),
                "{noun} {verb}: {help}"
            );
        }
    }
}
