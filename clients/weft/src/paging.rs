//! Lists that span several pages.

use clap::Args;

use crate::failure::Failure;

/// The largest page size that services accept.
const MAX_PAGE_SIZE: u32 = 1000;

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Limit {
    /// At most so many rows
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

impl Limit {
    /// Truncates rows that were merged from several lists. Prints on standard error if rows were cut, or if more
    /// exist that were not read (`more`).
    pub(crate) fn truncate<T>(self, rows: &mut Vec<T>, more: bool) {
        let max = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = more || rows.len() > max;
        rows.truncate(max);
        if more {
            mention_more(rows.len());
        }
    }
}

/// The rows, and the token of the next page; empty if there is none.
pub(crate) struct Listing<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) next_page_token: String,
}

/// Reads pages until there are `limit` rows or no more exist. `fetch` gets the page's size and token.
pub(crate) async fn collect<T>(
    limit: Limit,
    mut fetch: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Listing<T>, Failure> {
    let mut rows: Vec<T> = Vec::new();
    let mut next_page_token = String::new();
    // A page token is valid only for a request with the same page size.
    let page_size = limit.limit.min(MAX_PAGE_SIZE);
    loop {
        let (page, next) = fetch(i32::try_from(page_size).unwrap_or(1), next_page_token).await?;
        rows.extend(page);
        next_page_token = next;
        let wanted = usize::try_from(limit.limit).unwrap_or(usize::MAX);
        if next_page_token.is_empty() || rows.len() >= wanted {
            rows.truncate(wanted);
            return Ok(Listing {
                rows,
                next_page_token,
            });
        }
    }
}

impl<T> Listing<T> {
    /// Prints on standard error that there are more rows, if there are.
    pub(crate) fn mention_more(&self) {
        if !self.next_page_token.is_empty() {
            mention_more(self.rows.len());
        }
    }
}

fn mention_more(shown: usize) {
    eprintln!("there are more than these {shown}: --limit shows more");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_followed_until_the_limit() {
        let mut tokens = Vec::new();
        let listed = collect(Limit { limit: 2500 }, async |size, token: String| {
            assert_eq!(size, 1000);
            tokens.push(token);
            Ok((vec![0_u8; 1000], format!("after {}", tokens.len())))
        });
        let listed = listed.await.unwrap();
        assert_eq!(listed.rows.len(), 2500);
        assert_eq!(tokens, ["", "after 1", "after 2"]);
    }
}
