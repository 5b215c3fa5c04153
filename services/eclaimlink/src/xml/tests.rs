use super::*;

fn children(document: &str) -> Result<Vec<Child>, Malformed> {
    let mut reader = Reader::new(document.as_bytes());
    reader.root()?;
    let mut children = Vec::new();
    while let Some(child) = reader.child()? {
        children.push(child);
    }
    Ok(children)
}

#[test]
fn children_come_one_by_one_with_references_resolved() {
    let read = children(
        "<?xml version=\"1.0\"?><r xmlns:x='u'> <a>1 &lt;&#65;</a><x:b><c/><d><![CDATA[ & ]]>y</d></x:b></r> <!-- end -->",
    )
    .unwrap();
    let [first, second] = &read[..] else {
        panic!("two children, not {read:?}")
    };
    assert_eq!(
        (first.element.name.as_str(), first.element.text.as_str()),
        ("a", "1 <A")
    );
    assert_eq!(second.element.name, "b");
    assert_eq!(second.element.child("c").unwrap().text, "");
    assert_eq!(second.element.child("d").unwrap().text, "& y");
}

#[test]
fn malformed_documents_are_refused() {
    for document in [
        "",
        "text",
        "<r><a></b></r>",
        "<r><a>",
        "<r></r><r></r>",
        "<r>text<a/></r>",
        "<r><a>&unknown;</a></r>",
        "<r><a>&#xFFFFFFFF;</a></r>",
        "<!DOCTYPE r [<!ENTITY e 'x'>]><r><a>&e;</a></r>",
        "<?xml version='1.0' encoding='shift_jis'?><r/>",
    ] {
        assert!(children(document).is_err(), "{document:?}");
    }
}

#[test]
fn a_child_that_exceeds_a_bound_is_identified_and_the_others_are_read() {
    let id = "<ID>C1</ID>";
    for (inside, rule) in [
        (format!("{}{}", "<a>".repeat(8), "</a>".repeat(8)), "TOO_DEEP"),
        (
            format!("<a>{}</a>", "x".repeat(MAX_CLAIM_BYTES)),
            "CLAIM_TOO_LARGE",
        ),
        (
            "<a>0123456789</a>".repeat(MAX_CLAIM_BYTES / 10),
            "CLAIM_TOO_LARGE",
        ),
        ("<a/>".repeat(MAX_CLAIM_ELEMENTS), "CLAIM_TOO_LARGE"),
    ] {
        let document = format!("<r><c>{id}{inside}</c><c>{id}</c></r>");
        let read = children(&document).unwrap();
        assert_eq!(read.len(), 2);
        let fault = read[0].exceeded.as_ref().unwrap();
        assert_eq!((fault.rule, fault.place.as_str()), (rule, "c"));
        assert!(read[1].exceeded.is_none());
        assert!(
            read.iter()
                .all(|child| child.element.child("ID").unwrap().text == "C1")
        );
    }
}

#[test]
fn text_between_two_tags_is_bounded() {
    let document = format!("<r><a>{}</a></r>", "x".repeat(MAX_TOKEN_BYTES));
    let refused = children(&document).unwrap_err().to_string();
    assert!(refused.contains("more than 16 MiB"), "{refused}");
}

#[test]
fn a_long_document_of_small_children_is_within_the_bounds() {
    let count = MAX_CLAIM_BYTES / 8;
    let many = format!("<r>{}</r>", "<a>0123456789</a>".repeat(count));
    let read = children(&many).unwrap();
    assert_eq!(read.len(), count);
    assert!(read.iter().all(|child| child.exceeded.is_none()));
}
