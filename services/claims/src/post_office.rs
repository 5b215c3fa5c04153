//! Where claims are filed. The trait stands for eClaimLink's post office; the sandbox plays it.

pub mod sandbox;

use chassis::Facility;
use futures_util::future::BoxFuture;
use proto::claims::v1::ClaimDetails;
use uuid::Uuid;

/// A claim on its way.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Names the submission: the same however often it is handed in, another for every cycle.
    pub id: Uuid,
    /// Whose claim it is.
    pub facility: Facility,
    /// What is claimed.
    pub details: ClaimDetails,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The payer adjudicates it.
    Accepted,
    /// It is refused, for this reason.
    Rejected(String),
    /// It is taken, and not decided.
    Pending,
}

/// Nobody answered, or not in time: the submission may have been taken or not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// A post office.
pub trait PostOffice: Send + Sync + 'static {
    /// Hands a submission in. Repeated with the same id it is filed once and answers what became of it.
    fn file<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<Verdict, Unavailable>>;

    /// Asks what became of a submission that was handed in.
    fn ask<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<Verdict, Unavailable>>;
}
