//! Everything that is wrong with an input, collected so that it is told at once.

use std::fmt;

/// What is wrong, field by field: of a configuration or of a request.
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
    /// What the field must be, in words.
    pub description: String,
}

impl Violations {
    /// None yet.
    pub fn new() -> Violations {
        Violations::default()
    }

    /// Records that `field`, relative to the surrounding [`Violations::within`], breaks a rule.
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

    /// Records a violation of `field` unless `kept`.
    pub fn require(&mut self, kept: bool, field: impl AsRef<str>, description: impl Into<String>) {
        if !kept {
            self.add(field, description);
        }
    }

    /// Runs `check` with every field it names placed under `section`.
    pub fn within(&mut self, section: impl Into<String>, check: impl FnOnce(&mut Violations)) {
        self.prefix.push(section.into());
        check(self);
        self.prefix.pop();
    }

    /// Takes over what another check has found.
    pub fn extend(&mut self, others: Violations) {
        for violation in others.found {
            self.add(violation.field, violation.description);
        }
    }

    /// Forgets the violations that are not `wanted`, by their place in the list and their field.
    pub(crate) fn retain(&mut self, wanted: impl Fn(usize, &str) -> bool) {
        let mut index = 0;
        self.found.retain(|violation| {
            index += 1;
            wanted(index - 1, &violation.field)
        });
    }

    /// Takes the secrets out of the descriptions: a check may repeat the value that it has found.
    pub(crate) fn mask(&mut self) {
        for violation in &mut self.found {
            violation.description = crate::masked(&violation.description).into_owned();
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What is wrong, in the order it was found.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.found.iter()
    }

    /// `Ok` when nothing is wrong.
    ///
    /// # Errors
    /// Itself, when something is.
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
