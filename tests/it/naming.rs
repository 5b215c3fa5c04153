//! Names of files and items use the field's terms: none has a word of the former vocabulary.

use tests::sources;

/// Words that no file, module, type, function, constant or test is named by, as runs of the words of a name.
const REFUSED: &[&str] = &[
    "told",
    "tells",
    "desk",
    "conduct",
    "let_go",
    "heard",
    "hear",
    "pulse",
    "pace",
    "room",
    "vitals",
    "take_off",
    "letters_of_nobody",
    "nobody",
    "nobodys",
    "whoever",
    "patience",
    "bury",
    "buried",
    "obituary",
    "take_part",
    "scouts",
    "allowance",
    "hope",
    "keeper",
    "utils",
    "helpers",
    "common",
    "manager",
];

/// Keywords that a name follows.
const DECLARED_BY: &[&str] = &["fn", "struct", "enum", "trait", "mod", "type", "const", "static"];

#[test]
fn no_file_and_no_item_is_named_by_a_word_of_the_former_vocabulary() {
    let mut refused = Vec::new();
    for folder in ["services", "clients", "tests", "proto"] {
        sources::visit(&tests::workspace_root().join(folder), &mut |path, source| {
            let stem = path.file_stem().unwrap().to_string_lossy();
            refused.extend(refusal(&stem).map(|word| format!("{}: {word}", path.display())));
            for (line, name) in (1..).zip(source.lines().map(declared)) {
                if let Some((name, word)) = name.and_then(|name| Some((name, refusal(name)?))) {
                    refused.push(format!("{}:{line}: {name}: {word}", path.display()));
                }
            }
        });
    }
    assert!(refused.is_empty(), "rename these:\n{}", refused.join("\n"));
}

#[test]
fn a_refused_word_is_a_whole_word_of_a_name() {
    assert_eq!(words("HeardFrom"), "heard_from");
    assert_eq!(words("MAX_PACE"), "max_pace");
    assert!(refusal("let_go_of_it").is_some() && refusal("RoomLeft").is_some());
    assert!(refusal("space").is_none() && refusal("let_it_go").is_none() && refusal("Roommate").is_none());
    assert_eq!(refusal("of"), Some("of"));
    assert!(refusal("events_of_an_order").is_none());
    assert_eq!(declared("    pub(crate) async fn find(id: Uuid) {"), Some("find"));
    assert_eq!(declared("let desk = mod_of(fn_name);"), None);
}

/// The name that a line of Rust declares.
fn declared(line: &str) -> Option<&str> {
    let mut words = line
        .split_whitespace()
        .skip_while(|word| word.starts_with("pub") || ["async", "unsafe", "default"].contains(word));
    let mut keyword = words.next()?;
    let mut name = words.next()?;
    if keyword == "const" && DECLARED_BY.contains(&name) {
        (keyword, name) = (name, words.next()?);
    }
    let end = name.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    DECLARED_BY
        .contains(&keyword)
        .then(|| &name[..end.unwrap_or(name.len())])
}

/// The refused word in `name`.
fn refusal(name: &str) -> Option<&'static str> {
    if name == "of" {
        return Some("of");
    }
    let words = format!("_{}_", words(name));
    REFUSED
        .iter()
        .find(|refused| words.contains(&format!("_{refused}_")))
        .copied()
}

/// The words of `name` in lower case, joined by underscores.
fn words(name: &str) -> String {
    let mut words = String::new();
    let mut before = '_';
    for letter in name.chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            words.push('_');
        }
        words.extend(letter.to_lowercase());
        before = letter;
    }
    words
}
