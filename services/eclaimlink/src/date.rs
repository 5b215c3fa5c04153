//! The date format of eClaimLink: `dd/MM/yyyy HH:mm` in the time zone of Dubai, which has no daylight saving time.

use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

const DUBAI: UtcOffset = time::macros::offset!(+4);
/// The earliest accepted year. No claim or payment is older, and Protobuf's Timestamp cannot represent times
/// before year 1.
const EARLIEST_YEAR: u16 = 1900;

/// Parses `dd/MM/yyyy HH:mm` or `dd/MM/yyyy HH:mm:ss`. Leading zeros may be omitted, except in the year, as the
/// public schema allows. `None` for other text and for dates before 1900.
pub(crate) fn parse(text: &str) -> Option<OffsetDateTime> {
    let mut parts = text.split_ascii_whitespace();
    let (date, time) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let [day, month, year] = split(date, '/')?;
    let year_digits = date.rsplit('/').next()?;
    if year_digits.len() != 4 || year < EARLIEST_YEAR {
        return None;
    }
    let (hour, minute, second) = match split::<3>(time, ':') {
        Some([hour, minute, second]) => (hour, minute, second),
        None => {
            let [hour, minute] = split(time, ':')?;
            (hour, minute, 0)
        }
    };
    let small = |number: u16| u8::try_from(number).ok();
    let month = Month::try_from(small(month)?).ok()?;
    let date = Date::from_calendar_date(i32::from(year), month, small(day)?).ok()?;
    let time = Time::from_hms(small(hour)?, small(minute)?, small(second)?).ok()?;
    Some(date.with_time(time).assume_offset(DUBAI))
}

fn split<const N: usize>(text: &str, separator: char) -> Option<[u16; N]> {
    let mut numbers = [0; N];
    let mut parts = text.split(separator);
    for (index, number) in numbers.iter_mut().enumerate() {
        let part = parts.next()?;
        let max_len = if separator == '/' && index == 2 { 4 } else { 2 };
        let digits =
            !part.is_empty() && part.len() <= max_len && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = digits.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn leading_zeros_and_seconds_are_optional() {
        for text in [
            "05/03/2025 08:00",
            "05/03/2025 8:0",
            "5/3/2025 8:00",
            "05/03/2025 08:00:00",
        ] {
            assert_eq!(parse(text), Some(datetime!(2025-03-05 04:00 UTC)), "{text}");
        }
        assert_eq!(
            parse("05/03/2025 9:05:07"),
            Some(datetime!(2025-03-05 05:05:07 UTC))
        );
    }

    #[test]
    fn invalid_dates_are_none() {
        for text in [
            "",
            "05/03/2025",
            "2025-03-05 08:00",
            "05/03/25 08:00",
            "31/02/2025 08:00",
            "05/13/2025 08:00",
            "05/03/2025 24:00",
            "05/03/2025 08",
            "05/03/2025 08:00 PM",
            "05/03/2025 08:000",
            "05/03/2025T08:00",
            "+5/03/2025 08:00",
            "05/03/0000 08:00",
            "01/01/0001 00:00",
            "05/03/0225 08:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
