//! Durations as people type them: `500ms`, `30s`, `2m`, `1h`, `7d`.

use std::time::Duration;

/// Reads a whole number with its unit; a number alone is in seconds.
///
/// # Errors
/// When there is no number or an unknown unit, or the duration is zero or too long.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| "must be a number and a unit, such as 500ms or 10s".to_owned())?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("`{unit}` is no unit: use ms, s, m, h or d")),
    };
    match number.checked_mul(millis_per_unit) {
        Some(0) => Err("must be above zero".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err("is too long".to_owned()),
    }
}

/// A text that [`parse`] reads: `500ms`, `5s`.
pub(crate) fn format_exact(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// A rounded text for people, such as `1.2 s`; [`parse`] does not read it.
pub(crate) fn format_rounded(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        format!("{} ms", duration.as_millis())
    } else if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_nonsense_is_refused() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "0s", "1y", "-1s", "99999999999999999999d"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
