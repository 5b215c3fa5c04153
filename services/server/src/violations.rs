//! Collects all violations of an input, so that they are reported together.

use std::fmt;

/// The violations of a configuration or a request, by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    prefix: Vec<String>,
    found: Vec<Violation>,
}

/// One field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The dotted path of the field: `grpc.listen`, `lines[2].price`.
    pub field: String,
    /// What the field must be.
    pub description: String,
}

impl Violations {
    /// Without violations.
    pub fn new() -> Violations {
        Violations::default()
    }

    /// Adds a violation of `field`, relative to the surrounding [`Violations::within`].
    pub fn add(&mut self, field: impl AsRef<str>, description: impl Into<String>) {
        let mut path = self.prefix.clone();
        if !field.as_ref().is_empty() {
            path.push(field.as_ref().to_owned());
        }
        self.found.push(Violation {
            field: path.join("."),
            description: description.into(),
        });
    }

    /// Adds a violation of `field` unless `kept`.
    pub fn require(&mut self, kept: bool, field: impl AsRef<str>, description: impl Into<String>) {
        if !kept {
            self.add(field, description);
        }
    }

    /// Runs `check` with its fields prefixed by `section`.
    pub fn within(&mut self, section: impl Into<String>, check: impl FnOnce(&mut Violations)) {
        self.prefix.push(section.into());
        check(self);
        self.prefix.pop();
    }

    /// Adds the violations of another check.
    pub fn extend(&mut self, others: Violations) {
        for violation in others.found {
            self.add(violation.field, violation.description);
        }
    }

    /// Removes the violations that are not `wanted`, by index and field.
    pub fn retain(&mut self, wanted: impl Fn(usize, &str) -> bool) {
        let mut index = 0;
        self.found.retain(|violation| {
            index += 1;
            wanted(index - 1, &violation.field)
        });
    }

    /// Masks secrets in the descriptions, which may repeat a value.
    pub fn mask(&mut self) {
        for violation in &mut self.found {
            violation.description = crate::masked(&violation.description).into_owned();
        }
    }

    /// Whether there are no violations.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The violations, in the order they were added.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.found.iter()
    }

    /// `Ok` when there are no violations.
    ///
    /// # Errors
    /// The violations.
    pub fn into_result(self) -> Result<(), Violations> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.found.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}
