//! Compares the results of all endpoints at the interval of a configured outlier detection (gRFC A50).
//!
//! Without a policy it waits for one, and there is no timer.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{KnownAddress, Published};
use crate::outlier_detection::OutlierDetection;

/// Sweeps at every interval of the present policy. Returns when no more policies can come.
pub(super) async fn run(
    mut policy: watch::Receiver<Option<Arc<OutlierDetection>>>,
    published: watch::Receiver<Arc<Published>>,
) {
    // When the present interval began; `None` without a policy.
    let mut began: Option<Instant> = None;
    loop {
        let current = policy.borrow_and_update().clone();
        let current = current.filter(|policy| policy.has_algorithm());
        // Not kept while waiting, because it would keep the statistics of removed addresses.
        let addresses = || Arc::clone(&published.borrow());
        if let Some(current) = current {
            let began_at = *began.get_or_insert_with(|| {
                forget_results(&addresses().addresses);
                Instant::now()
            });
            tokio::select! {
                changed = policy.changed() => if changed.is_err() { return },
                () = end_of(began_at, current.interval) => {
                    began = Some(Instant::now());
                    sweep(&current, &addresses().addresses);
                }
            }
        } else {
            if began.take().is_some() {
                let addresses = addresses();
                addresses
                    .addresses
                    .iter()
                    .for_each(|known| known.stats.end_outlier_detection());
            }
            if policy.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Ejects the outliers of the interval that ends now, and readmits endpoints whose ejection is over.
fn sweep(policy: &OutlierDetection, addresses: &[KnownAddress]) {
    let now = Instant::now();
    let results: Vec<_> = addresses.iter().map(|known| known.stats.take_results()).collect();
    for outlier in policy.outliers(&results) {
        addresses[outlier.endpoint]
            .stats
            .eject_outlier(&outlier, policy, now);
    }
    for known in addresses {
        known.stats.end_sweep(policy, now);
    }
}

/// The first interval begins without results.
fn forget_results(addresses: &[KnownAddress]) {
    for known in addresses {
        known.stats.take_results();
    }
}

/// Waits for the end of an interval, forever if the clock cannot represent it.
async fn end_of(began: Instant, interval: Duration) {
    match began.checked_add(interval) {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
