//! The `grpc-timeout` header: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header's name.
pub const HEADER: HeaderName = HeaderName::from_static("grpc-timeout");

const LARGEST: u128 = 99_999_999;

/// The header is present and does not match the grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`grpc-timeout` must be one to eight digits and one of H, M, S, m, u, n")]
pub struct InvalidTimeout;

/// Encodes a timeout in the finest unit that fits in eight digits, rounded down: a callee must not get more time
/// than its caller has.
pub fn encode(timeout: Duration) -> HeaderValue {
    let units: [(u128, char); 6] = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (timeout.as_secs().into(), 'S'),
        ((timeout.as_secs() / 60).into(), 'M'),
        ((timeout.as_secs() / 3600).into(), 'H'),
    ];
    let (count, unit) = units
        .into_iter()
        .find(|(count, _)| *count <= LARGEST)
        .unwrap_or((LARGEST, 'H'));
    HeaderValue::try_from(format!("{count}{unit}")).expect("digits and a letter are a header value")
}

/// Decodes the timeout; `None` without the header.
///
/// # Errors
/// If the header does not match the grammar.
pub fn decode(headers: &HeaderMap) -> Result<Option<Duration>, InvalidTimeout> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let (unit, digits) = value.as_bytes().split_last().ok_or(InvalidTimeout)?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(InvalidTimeout);
    }
    let count = digits
        .iter()
        .fold(0_u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(InvalidTimeout),
    };
    Ok(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Option<Duration>, InvalidTimeout> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, value.parse().unwrap());
        decode(&headers)
    }

    #[test]
    fn every_duration_fits_and_is_never_rounded_up() {
        for nanos in [0, 1, 99_999_999, 100_000_000, 5_000_000_000_123, u64::MAX] {
            let timeout = Duration::from_nanos(nanos);
            let value = encode(timeout);
            assert!(value.len() <= 9, "{value:?}");
            assert!(read(value.to_str().unwrap()).unwrap().unwrap() <= timeout);
        }
        assert_eq!(
            read(encode(Duration::MAX).to_str().unwrap()),
            Ok(Some(Duration::from_secs(99_999_999 * 3600)))
        );
    }

    #[test]
    fn short_timeouts_keep_their_precision() {
        assert_eq!(encode(Duration::from_micros(1_500)), "1500000n");
        assert_eq!(encode(Duration::from_millis(300)), "300000u");
    }

    #[test]
    fn anything_outside_the_grammar_is_rejected() {
        for value in ["", "m", "123456789m", "-1m", "1.5S", "10", "10x", "1 m"] {
            assert_eq!(read(value), Err(InvalidTimeout), "{value}");
        }
        assert_eq!(decode(&HeaderMap::new()), Ok(None));
    }
}
