//! Selects the endpoints that a channel connects to if there are too many of them.
//!
//! Each client selects its own subset, so that all endpoints get connections; and a client keeps its endpoints
//! while others are added and removed (rendezvous hashing, as in gRFC A68's random subsetting).

use std::hash::{BuildHasher, RandomState};

use super::Address;

/// Maximum number of endpoints of one channel.
pub(crate) const MAX_ENDPOINTS: usize = 1_000;

/// One client's ranking of all endpoints. It does not change.
#[derive(Debug, Default)]
pub(crate) struct Subset(RandomState);

impl Subset {
    /// At most `max` of the addresses, in their order.
    pub(crate) fn select(&self, addresses: Vec<Address>, max: usize) -> Vec<Address> {
        if addresses.len() <= max {
            return addresses;
        }
        let rank = |address: &Address| self.0.hash_one((&address.host, address.port));
        let mut ranks: Vec<u64> = addresses.iter().map(rank).collect();
        ranks.sort_unstable();
        let last = ranks.get(max).copied().unwrap_or(u64::MAX);
        let chosen = addresses.into_iter().filter(|address| rank(address) < last);
        chosen.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use http::uri::Scheme;

    use super::*;

    fn addresses(numbers: std::ops::Range<u16>) -> Vec<Address> {
        let address = |number| Address {
            scheme: Scheme::HTTP,
            authority: "payment:1".parse().unwrap(),
            host: Arc::from(format!("10.0.{}.{}", number / 256, number % 256)),
            port: Some(1),
            zone: None,
            labels: Default::default(),
        };
        numbers.map(address).collect()
    }

    #[test]
    fn up_to_the_maximum_all_endpoints_are_selected() {
        assert_eq!(Subset::default().select(addresses(0..20), 20), addresses(0..20));
    }

    #[test]
    fn subsets_differ_and_together_cover_all_endpoints() {
        let all = addresses(0..100);
        let taken: Vec<_> = (0..100)
            .map(|_| Subset::default().select(all.clone(), 20))
            .collect();
        assert!(taken.iter().all(|taken| taken.len() == 20));
        let together: HashSet<_> = taken.into_iter().flatten().collect();
        assert_eq!(together.len(), 100);
    }

    #[test]
    fn a_client_keeps_its_endpoints_while_others_are_added_and_removed() {
        let subset = Subset::default();
        let before = subset.select(addresses(0..100), 20);
        let after = subset.select(addresses(1..101), 20);
        let kept = before.iter().filter(|address| after.contains(address)).count();
        assert!(kept >= 18, "one was removed and one added: {kept} of 20 stay");
    }
}
