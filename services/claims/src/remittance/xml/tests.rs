use super::*;

fn children(document: &str) -> Result<Vec<Element>, Malformed> {
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
    let read = children("<?xml version=\"1.0\"?><r xmlns:x='u'> <a>1 &lt;&#65;</a><x:b><c/><d><![CDATA[ & ]]>y</d></x:b></r> <!-- end -->")
        .unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!((read[0].name.as_str(), read[0].text.as_str()), ("a", "1 <A"));
    assert_eq!(read[1].name, "b");
    assert_eq!(read[1].child("c").unwrap().text, "");
    assert_eq!(read[1].child("d").unwrap().text, "& y");
}

#[test]
fn what_is_not_well_formed_is_refused() {
    for document in [
        "",
        "text",
        "<r><a></b></r>",
        "<r><a>",
        "<r></r><r></r>",
        "<r><a>&unknown;</a></r>",
        "<r><a>\u{0}&#xFFFFFFFF;</a></r>",
        "<!DOCTYPE r [<!ENTITY e 'x'>]><r><a>&e;</a></r>",
        "<?xml version='1.0' encoding='utf-16'?><r/>",
    ] {
        assert!(children(document).is_err(), "{document:?}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let mut reader = Reader::new(&b"<r><a>\xff</a></r>"[..]);
    reader.root().unwrap();
    assert!(reader.child().is_err());
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = format!("<r>{}{}</r>", "<a>".repeat(9), "</a>".repeat(9));
    assert!(matches!(children(&deep), Err(Malformed::TooDeep)));

    let large = format!("<r><a>{}</a></r>", "x".repeat(CHILD_BYTES));
    assert!(children(&large).unwrap_err().to_string().contains("more than"));
}

#[test]
fn a_long_document_of_small_children_is_within_the_bounds() {
    let many = format!("<r>{}</r>", "<a>0123456789</a>".repeat(CHILD_BYTES / 8));
    assert_eq!(children(&many).unwrap().len(), CHILD_BYTES / 8);
}
