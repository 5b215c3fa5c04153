//! Durations (`"1.5s"`), codes (`"UNAVAILABLE"` or `14`) and numbers (`3` or `"3"`) in Protobuf's JSON format.

pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    /// Ten thousand years, the range of `google.protobuf.Duration`.
    const MAX_SECONDS: u64 = 315_576_000_000;

    pub(in super::super) fn required<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a duration such as \"1.5s\"")))
    }

    pub(in super::super) fn optional<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        required(deserializer).map(Some)
    }

    pub(in super::super) fn positive<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        match required(deserializer)? {
            Duration::ZERO => Err(D::Error::custom("must be more than 0s")),
            duration => Ok(Some(duration)),
        }
    }

    fn parse(text: &str) -> Option<Duration> {
        let (seconds, fraction) = {
            let number = text.strip_suffix('s')?;
            number.split_once('.').unwrap_or((number, "0"))
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let nanos = format!("{fraction:0<9}").parse().ok()?;
        let seconds = seconds.parse().ok().filter(|seconds| *seconds <= MAX_SECONDS)?;
        Some(Duration::new(seconds, nanos))
    }
}

pub(super) mod number {
    use serde::{Deserialize, Deserializer, de::Error};

    /// Maximum number of attempts of a call (gRFC A6).
    const MAX_ATTEMPTS: u32 = 5;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Text(String),
    }

    pub(in super::super) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let wrong = |text: &str| D::Error::custom(format!("`{text}` is not a number from 0 to {}", u32::MAX));
        match Written::deserialize(deserializer).map_err(|_| wrong("the value"))? {
            Written::Number(number) => Ok(number),
            Written::Text(text) => text.parse().map_err(|_| wrong(&text)),
        }
    }

    pub(in super::super) fn optional<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u32>, D::Error> {
        required(deserializer).map(Some)
    }

    pub(in super::super) fn percent<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u32>, D::Error> {
        match required(deserializer)? {
            percent @ 0..=100 => Ok(Some(percent)),
            other => Err(D::Error::custom(format!("{other} is more than 100 percent"))),
        }
    }

    pub(in super::super) fn attempts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        Ok(required(deserializer)?.min(MAX_ATTEMPTS))
    }
}

pub(super) mod codes {
    use serde::{Deserialize, Deserializer, de::Error};
    use tonic::Code;

    use crate::code;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(i32),
        Name(String),
    }

    pub(in super::super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Code>, D::Error> {
        let written: Vec<Written> = Vec::deserialize(deserializer)?;
        written
            .into_iter()
            .map(|written| parse(&written).map_err(D::Error::custom))
            .collect()
    }

    fn parse(written: &Written) -> Result<Code, String> {
        let found = (0..=16).map(Code::from_i32).find(|code| match written {
            Written::Number(number) => *number == *code as i32,
            Written::Name(name) => name.eq_ignore_ascii_case(code::name(*code)),
        });
        found.ok_or_else(|| match written {
            Written::Number(number) => format!("{number} is not a status code"),
            Written::Name(name) => format!("`{name}` is not a status code"),
        })
    }
}
