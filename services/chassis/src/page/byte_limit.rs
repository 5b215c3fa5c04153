//! Pages that end before a bound in bytes, because clients take messages of 4 MiB unless they say otherwise.

use prost::Message;

/// The bytes of a page's items. A larger one ends before it, with a token for the rest; an item that is larger alone is a page.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// How many items are read at first; more follow as they turn out small.
const FIRST_CHUNK: usize = 4;
const MAX_CHUNK: usize = 64;

/// Cuts a page at the bound. Whether something was cut off, so that another page follows.
pub fn truncate<M: Message>(page: &mut Vec<M>) -> bool {
    let mut bytes = 0;
    let fitting = page.iter().take_while(|item| {
        bytes += item.encoded_len();
        bytes <= MAX_BYTES
    });
    // A page without any item would never end.
    let fitting = fitting.count().max(1);
    let is_truncated = fitting < page.len();
    page.truncate(fitting);
    is_truncated
}

/// A page whose items are read a few at a time, so that no more is read than fits.
#[derive(Debug)]
pub struct Builder<'a, K, M> {
    keys: &'a [K],
    chunk: usize,
    requested: usize,
    bytes: usize,
    items: Vec<M>,
}

impl<'a, K, M: Message> Builder<'a, K, M> {
    /// An empty page for the items of these keys.
    pub fn new(keys: &'a [K]) -> Builder<'a, K, M> {
        Builder {
            keys,
            chunk: FIRST_CHUNK,
            requested: 0,
            bytes: 0,
            items: Vec::new(),
        }
    }

    /// The keys whose items are to be read now; `None` when the page is full or all are read.
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

    /// Takes the items of the keys that were given last, in their order.
    pub fn add(&mut self, items: impl IntoIterator<Item = M>) {
        for item in items {
            self.bytes += item.encoded_len();
            self.items.push(item);
        }
    }

    /// The page, and whether something of it was left out.
    pub fn finish(mut self) -> (Vec<M>, bool) {
        let is_truncated = truncate(&mut self.items) || self.requested < self.keys.len();
        (self.items, is_truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read with the sizes of the items as their keys.
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
