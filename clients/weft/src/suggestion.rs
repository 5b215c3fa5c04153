//! Suggests a known name for a mistyped one.

/// The lowest Jaro similarity that is suggested; clap uses the same for its own hints.
const MIN_SIMILARITY: f64 = 0.7;

/// `, did you mean `x`?` with the most similar known name; empty if none is similar enough.
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
    fn the_most_similar_name_is_suggested_and_none_when_none_is_similar() {
        let known = ["payment-ledger", "order-settlement", "claims-payments"];
        assert_eq!(
            did_you_mean("paymnt-ledger", known.into_iter()),
            ", did you mean `payment-ledger`?"
        );
        assert_eq!(did_you_mean("xyz", known.into_iter()), "");
    }
}
