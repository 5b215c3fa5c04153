//! eClaimLink 2.0 files: one reader for submissions and remittances, so that both have one verdict.
//!
//! A file is read claim by claim: memory depends on the largest claim that is taken, not on the file. [`scan`] checks
//! what concerns the file as a whole; [`File`] then reads the claims. `docs/eclaimlink.md` lists the accepted forms.

mod encoding;
mod xml;

mod date;
mod number;

mod fault;
mod schema;

mod fields;
mod file;
mod header;

pub use encoding::is_xml;
pub use fault::Fault;
pub use fields::Fields;
pub use file::{Claim, File, Refused, Scanned, scan};
pub use header::{Disposition, Header};
pub use schema::Kind;
pub use xml::Element;
