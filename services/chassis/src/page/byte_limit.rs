//! Limits pages to a size in bytes, because gRPC clients accept messages of at most 4 MiB by default.

use prost::Message;

/// Bytes of the items of a page. A page ends before it would exceed this, with a token for the rest; a larger
/// single item is a page of its own.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// Items in the first read; later reads double.
const FIRST_CHUNK: usize = 4;
const MAX_CHUNK: usize = 64;

/// Truncates a page to the limit. Returns whether items were removed, so that another page follows.
pub fn truncate<M: Message>(page: &mut Vec<M>) -> bool {
    let mut bytes = 0;
    let fitting = page.iter().take_while(|item| {
        bytes += item.encoded_len();
        bytes <= MAX_BYTES
    });
    // An empty page would never make progress.
    let fitting = fitting.count().max(1);
    let is_truncated = fitting < page.len();
    page.truncate(fitting);
    is_truncated
}

/// A page whose items are read in chunks, so that few more are read than fit.
#[derive(Debug)]
pub struct Builder<'a, K, M> {
    keys: &'a [K],
    chunk: usize,
    requested: usize,
    bytes: usize,
    items: Vec<M>,
}

impl<'a, K, M: Message> Builder<'a, K, M> {
    /// An empty page for the items with these keys.
    pub fn new(keys: &'a [K]) -> Builder<'a, K, M> {
        Builder {
            keys,
            chunk: FIRST_CHUNK,
            requested: 0,
            bytes: 0,
            items: Vec::new(),
        }
    }

    /// The keys of the next chunk to read; `None` when the page is full or complete.
    pub fn next_keys(&mut self) -> Option<&'a [K]> {
        if self.bytes > MAX_BYTES || self.requested == self.keys.len() {
            return None;
        }
        let end = self.keys.len().min(self.requested + self.chunk);
        let keys = &self.keys[self.requested..end];
        self.requested = end;
        self.chunk = MAX_CHUNK.min(2 * self.chunk);
        Some(keys)
    }

    /// Adds the items of the last keys, in their order.
    pub fn add(&mut self, items: impl IntoIterator<Item = M>) {
        for item in items {
            self.bytes += item.encoded_len();
            self.items.push(item);
        }
    }

    /// The page, and whether items were left out.
    pub fn finish(mut self) -> (Vec<M>, bool) {
        let is_truncated = truncate(&mut self.items) || self.requested < self.keys.len();
        (self.items, is_truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses the items' sizes as their keys.
    fn filled(sizes: &[usize]) -> (Vec<usize>, bool, usize) {
        let mut builder = Builder::new(sizes);
        let mut read = 0;
        while let Some(keys) = builder.next_keys() {
            read += keys.len();
            builder.add(keys.iter().map(|size| "x".repeat(*size)));
        }
        let (items, is_truncated) = builder.finish();
        (items.iter().map(String::len).collect(), is_truncated, read)
    }

    #[test]
    fn small_items_are_all_of_the_page() {
        let sizes = vec![100; 1_000];
        assert_eq!(filled(&sizes), (sizes, false, 1_000));
        assert_eq!(filled(&[]), (Vec::new(), false, 0));
    }

    #[test]
    fn a_page_ends_before_the_bound_and_little_more_is_read() {
        let (items, is_truncated, read) = filled(&[600_000; 1_000]);
        assert_eq!((items.len(), is_truncated, read), (3, true, 4));
    }

    #[test]
    fn an_item_that_is_too_large_is_a_page_of_its_own() {
        let (items, is_truncated, _) = filled(&[3_000_000, 1]);
        assert_eq!((items, is_truncated), (vec![3_000_000], true));
        assert!(!filled(&[3_000_000]).1);
    }
}
