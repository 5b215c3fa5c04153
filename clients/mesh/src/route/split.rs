//! Groups of endpoints among which calls are split by weight.

use std::{
    iter,
    sync::{Arc, PoisonError, RwLock},
};

use opentelemetry::StringValue;

use super::header_match::mix;
use crate::discovery::labels::Labels;

/// Maximum number of groups of one route.
pub(crate) const MAX_GROUPS: usize = 32;

/// Groups and their weights.
#[derive(Debug)]
pub(crate) struct Split(pub(super) Vec<Group>);

/// The endpoints that have some labels in common, and their share of the calls.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) labels: Labels,
    /// The labels as an attribute of spans and metrics.
    pub(crate) name: StringValue,
    weight: u32,
    members: RwLock<Members>,
}

/// The connected endpoints of a group, as places in the list of all connected endpoints.
#[derive(Debug, Default)]
struct Members {
    /// The generation of that list, from 1.
    generation: u64,
    places: Arc<[u32]>,
}

impl Split {
    /// Fails with the reason unless there are groups and one of them has a weight.
    pub(crate) fn new(groups: Vec<Group>) -> Result<Split, &'static str> {
        if groups.is_empty() {
            Err("must not be empty")
        } else if groups.len() > MAX_GROUPS {
            Err("must have at most 32 groups")
        } else if groups.iter().all(|group| group.weight == 0) {
            Err("must have a group with a weight above 0")
        } else {
            Ok(Split(groups))
        }
    }

    /// The groups with a weight. The first is the one whose part of the range of `point` holds it, so that
    /// each is first for a share of the points that corresponds to its weight; the next are chosen in the
    /// same way among the remaining ones.
    ///
    /// The groups divide the range in the order of the config. So a point stays in the first group while that
    /// group's share grows.
    pub(crate) fn order(&self, mut point: u64) -> impl Iterator<Item = &Group> {
        let mut remaining: u32 = 0;
        for (place, group) in self.0.iter().enumerate() {
            remaining |= u32::from(group.weight > 0) << place;
        }
        iter::from_fn(move || {
            let place = self.find(point, remaining)?;
            remaining &= !(1 << place);
            // Where a point lies within the part of a group says nothing about the groups that come next.
            point = mix(point);
            self.0.get(place)
        })
    }

    /// The place of the group that holds `point`, of those whose bits are set in `remaining`.
    fn find(&self, point: u64, remaining: u32) -> Option<usize> {
        let groups = || {
            let numbered = self.0.iter().enumerate();
            numbered.filter(move |(place, _)| remaining & (1 << place) != 0)
        };
        let total: u64 = groups().map(|(_, group)| u64::from(group.weight)).sum();
        // Below `total`: the point's fraction of the range of 64 bits.
        let mut position = ((u128::from(point) * u128::from(total)) >> 64) as u64;
        let holds = |(_, group): &(usize, &Group)| {
            let weight = u64::from(group.weight);
            let inside = position < weight;
            position = position.saturating_sub(weight);
            inside
        };
        groups().find(holds).map(|(place, _)| place)
    }

    /// Whether a group with a weight includes endpoints with these labels.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.weighted().any(|group| labels.include(&group.labels))
    }

    /// The labels of the groups with a weight, in words.
    pub(crate) fn names(&self) -> String {
        let names: Vec<_> = self.weighted().map(|group| group.name.as_str()).collect();
        names.join(" or ")
    }

    fn weighted(&self) -> impl Iterator<Item = &Group> {
        self.0.iter().filter(|group| group.weight > 0)
    }
}

impl Group {
    pub(crate) fn new(labels: Labels, weight: u32) -> Group {
        let name = StringValue::from(Arc::<str>::from(labels.to_string()));
        Group {
            labels,
            name,
            weight,
            members: RwLock::default(),
        }
    }

    /// The places of its endpoints in a list, given the labels of all endpoints of that list. They are
    /// determined once for each generation of the list.
    pub(crate) fn members<'a>(&self, generation: u64, all: impl Iterator<Item = &'a Labels>) -> Arc<[u32]> {
        {
            let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
            if members.generation == generation {
                return Arc::clone(&members.places);
            }
        }
        let places = (0..).zip(all);
        let places: Arc<[u32]> = places
            .filter(|(_, labels)| labels.include(&self.labels))
            .map(|(place, _)| place)
            .collect();
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        // A call may still hold an older list.
        if members.generation < generation {
            *members = Members {
                generation,
                places: Arc::clone(&places),
            };
        }
        places
    }
}
