//! Reads eClaimLink 2.0 files. Submissions and remittances share one reader, so that the same faults are found in
//! both.
//!
//! A file is read claim by claim, so that memory use depends on the largest accepted claim, not on the file.
//! [`scan`] checks the file as a whole; [`File`] then reads the claims. `docs/eclaimlink.md` lists the accepted
//! formats.

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
pub use file::{Claim, File, FileSummary, RefusedFile, scan};
pub use header::{Disposition, Header};
pub use schema::Kind;
pub use xml::Element;
