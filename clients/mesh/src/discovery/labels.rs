//! Labels of endpoints (`version=v2`), by which routes select groups of them.

use std::{fmt, sync::Arc};

/// Maximum number of labels of one endpoint or group.
const MAX_LABELS: usize = 16;
/// Maximum length of a name or a value. Bytes.
const MAX_LENGTH: usize = 253;
/// The zone is written like a label but is not one: balancing prefers it, routes do not select by it.
const ZONE: &str = "zone";

/// Names and values, sorted by name. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Labels(Arc<[(Box<str>, Box<str>)]>);

/// A URI of a target, and what follows it: `http://10.0.0.7:7102;zone=b;version=v2`.
#[derive(Debug)]
pub(super) struct LabelledUri<'a> {
    pub(super) uri: &'a str,
    pub(super) zone: Option<Arc<str>>,
    pub(super) labels: Labels,
}

impl Labels {
    /// Fails with the reason if a name or value is invalid or a name is there twice.
    pub(crate) fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Labels, String> {
        let mut labels: Vec<(Box<str>, Box<str>)> = Vec::new();
        for (name, value) in pairs {
            if name == ZONE {
                return Err("`zone` is not a label".to_owned());
            }
            if !is_valid(name) || !is_valid(value) {
                return Err(format!(
                    "the label `{name}={value}` must be 1 to {MAX_LENGTH} letters, digits, `-`, `_`, `.` or `/` on \
                     each side"
                ));
            }
            labels.push((name.into(), value.into()));
        }
        if labels.len() > MAX_LABELS {
            return Err(format!("{} labels are more than {MAX_LABELS}", labels.len()));
        }
        labels.sort_unstable();
        match labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(format!("the label `{}` is there twice", pair[0].0)),
            None => Ok(Labels(labels.into())),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether all of the `wanted` labels are among these.
    pub(crate) fn include(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|label| self.0.contains(label))
    }
}

/// Kubernetes allows the same characters in labels.
fn is_valid(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    (1..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(allowed)
}

/// `version=v2,region=eu`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, value)) in self.iter().enumerate() {
            let separator = if place > 0 { "," } else { "" };
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

impl LabelledUri<'_> {
    pub(super) fn parse(text: &str) -> Result<LabelledUri<'_>, String> {
        let (uri, rest) = match text.split_once(';') {
            Some((uri, rest)) => (uri, Some(rest)),
            None => (text, None),
        };
        // Schemes are compared as they are written.
        if uri
            .split_once("://")
            .is_some_and(|(scheme, _)| scheme.contains(|c: char| c.is_ascii_uppercase()))
        {
            return Err(format!(
                "`{text}` must begin with http:// or https://, in lower case"
            ));
        }
        let (mut zone, mut labels) = (None, Vec::new());
        for part in rest.into_iter().flat_map(|rest| rest.split(';')) {
            match part.split_once('=') {
                Some((ZONE, "")) => return Err(format!("`{text}` names an empty zone")),
                Some((ZONE, _)) if zone.is_some() => return Err(format!("`{text}` names two zones")),
                Some((ZONE, name)) => zone = Some(Arc::from(name)),
                Some(label) => labels.push(label),
                None => return Err(format!("`{text}`: `{part}` must be a label such as `version=v2`")),
            }
        }
        let labels = Labels::new(labels).map_err(|reason| format!("`{text}`: {reason}"))?;
        Ok(LabelledUri { uri, zone, labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        LabelledUri::parse(&format!("http://a:1{text}")).unwrap().labels
    }

    #[test]
    fn labels_and_the_zone_follow_the_uri_in_any_order() {
        let parsed = LabelledUri::parse("http://a:1;version=v2;zone=b;app.example.com/tier=web").unwrap();
        assert_eq!((parsed.uri, parsed.zone.as_deref()), ("http://a:1", Some("b")));
        assert_eq!(parsed.labels.to_string(), "app.example.com/tier=web,version=v2");
        assert_eq!(labels(";b=2;a=1"), labels(";a=1;b=2"));
    }

    #[test]
    fn labels_include_those_of_which_name_and_value_are_the_same() {
        let both = labels(";version=v2;region=eu");
        assert!(
            both.include(&labels(";region=eu")) && both.include(&both) && both.include(&Labels::default())
        );
        assert!(!both.include(&labels(";version=v1")) && !labels(";region=eu").include(&both));
    }

    #[test]
    fn an_invalid_label_is_an_error_that_names_it() {
        for (text, reason) in [
            (";version", "`version` must be a label"),
            (";", "must be a label"),
            (";version=", "`version=`"),
            (";=v2", "`=v2`"),
            (";version=v 2", "`version=v 2`"),
            (";version=v1;version=v2", "`version` is there twice"),
            (";zone=a;zone=b", "two zones"),
            (";zone=", "empty zone"),
        ] {
            let text = format!("http://a:1{text}");
            let error = LabelledUri::parse(&text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let many: Vec<_> = (0..=MAX_LABELS).map(|number| format!("l{number}")).collect();
        assert!(Labels::new(many.iter().map(|name| (name.as_str(), "v"))).is_err());
        assert!(Labels::new([("zone", "a")]).is_err(), "routes select no zones");
    }
}
