//! Describes the valid values of an enum field by name; the contract's rules contain numbers only.

use prost_reflect::EnumDescriptor;

/// `must be one of PAYMENT_PURPOSE_SHARE, PAYMENT_PURPOSE_BALANCE`. Zero means that the field is missing, so it is
/// not listed.
pub(super) fn must_be(values: &EnumDescriptor) -> String {
    let given = values.values().filter(|value| value.number() != 0);
    let names: Vec<String> = given.map(|value| value.name().to_owned()).collect();
    format!("must be one of {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};

    use super::super::{limits, tests::contract};

    /// All enum fields of the contracts' messages.
    fn fields() -> Vec<(FieldDescriptor, prost_reflect::EnumDescriptor)> {
        let ours = |package: &str| {
            ["order.", "payment.", "claims.", "ops."]
                .iter()
                .any(|of| package.starts_with(of))
        };
        let messages = contract()
            .pool()
            .all_messages()
            .filter(|message| ours(message.package_name()));
        let fields = messages.flat_map(|message| message.fields().collect::<Vec<_>>());
        fields
            .filter(|field| !field.is_list())
            .filter_map(|field| match field.kind() {
                Kind::Enum(values) => Some((field, values)),
                _ => None,
            })
            .collect()
    }

    fn violation_of(field: &FieldDescriptor, number: i32) -> Option<String> {
        let mut message = DynamicMessage::new(field.parent_message().clone());
        message.set_field(field, Value::EnumNumber(number));
        let violations = contract().collect_violations(message).unwrap();
        let of_field = violations
            .iter()
            .filter(|violation| violation.field == field.name());
        let descriptions: Vec<String> = of_field.map(|violation| violation.description.clone()).collect();
        assert!(descriptions.len() <= 1, "{}: {descriptions:?}", field.full_name());
        descriptions.into_iter().next()
    }

    #[test]
    fn a_missing_or_unknown_enum_value_is_reported_with_the_valid_names() {
        let mut left_out = 0;
        for (field, values) in fields() {
            let names = super::must_be(&values);
            assert_eq!(
                violation_of(&field, 9_999).as_ref(),
                Some(&names),
                "{}",
                field.full_name()
            );
            if let Some(description) = violation_of(&field, 0) {
                assert_eq!(description, names, "{}", field.full_name());
                left_out += 1;
            }
        }
        assert!(left_out >= 6, "only {left_out} fields of enums must be set");
    }

    /// The description lists all names except zero, so no rule may exclude another value.
    #[test]
    fn of_the_defined_numbers_only_zero_is_rejected() {
        for (field, _) in fields() {
            let refused = limits::rule(&field, &["enum", "not_in"]);
            let refused = refused
                .iter()
                .flat_map(|numbers| numbers.as_list().unwrap_or_default());
            assert!(
                refused.clone().all(|number| number.as_i32() == Some(0)),
                "{}",
                field.full_name()
            );
            for other in ["in", "const"] {
                let rule = limits::rule(&field, &["enum", other]);
                assert!(rule.is_none(), "{} has the rule {other}", field.full_name());
            }
        }
    }
}
