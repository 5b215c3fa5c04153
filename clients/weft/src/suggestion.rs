//! What somebody probably meant who typed a name that does not exist.

/// How alike two names must be; what clap takes for its own hints.
const MIN_SIMILARITY: f64 = 0.7;

/// `, did you mean `x`?` with the known name that is most like the typed one; empty when none is.
pub(crate) fn did_you_mean<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> String {
    let scored = known.map(|name| (strsim::jaro(typed, name), name));
    let nearest = scored
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match nearest {
        Some((_, name)) => format!(", did you mean `{name}`?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_hinted_at_and_none_when_none_is_near() {
        let known = ["payment-ledger", "order-settlement", "claims-payments"];
        assert_eq!(
            did_you_mean("paymnt-ledger", known.into_iter()),
            ", did you mean `payment-ledger`?"
        );
        assert_eq!(did_you_mean("xyz", known.into_iter()), "");
    }
}
