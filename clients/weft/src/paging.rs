//! Lists over as many pages as are asked for.

use clap::Args;

use crate::failure::Failure;

/// The largest page that services answer.
const MAX_PAGE_SIZE: u32 = 1000;

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Limit {
    /// At most so many rows
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

impl Limit {
    /// Shortens what was put together from several lists, and says on standard error that there is more: beyond these rows, or
    /// (`more`) beyond what was read.
    pub(crate) fn truncate<T>(self, rows: &mut Vec<T>, more: bool) {
        let max = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = more || rows.len() > max;
        rows.truncate(max);
        if more {
            mention_more(rows.len());
        }
    }
}

/// The rows, and what names the page after them; empty when there is none.
pub(crate) struct Listing<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) next_page_token: String,
}

/// Asks for page after page until `limit` rows are there or no more exist. `fetch` gets the page's size and token.
pub(crate) async fn collect<T>(
    limit: Limit,
    mut fetch: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Listing<T>, Failure> {
    let mut rows: Vec<T> = Vec::new();
    let mut next_page_token = String::new();
    // The page's size belongs to the request that a token continues: it stays the same throughout.
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
    /// Says on standard error that the table is not all there is.
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
