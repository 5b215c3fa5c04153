//! Merges the endpoints of several names, such as a Service and its canary, into those of one target.

use std::{collections::HashSet, sync::Arc};

use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::{self, SelectAll},
};
use tokio::sync::{Notify, mpsc};

use super::{Address, Update};

/// Watches one name: sends its endpoints to the channel, until the receiver is dropped. The signal is that a
/// connection has ended.
pub(super) type Watch = Box<dyn FnOnce(mpsc::Sender<Update>, Arc<Notify>) -> BoxFuture<'static, ()> + Send>;

/// Sends the endpoints of all names together, whenever those of one change, until the receiver is dropped. A
/// name that cannot be resolved delays none of the others and removes none of its own endpoints.
pub(super) async fn watch(names: Vec<Watch>, updates: &mpsc::Sender<Update>, connection_lost: Arc<Notify>) {
    let count = names.len();
    let mut found = SelectAll::new();
    let (mut watches, mut signals) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (place, name) in names.into_iter().enumerate() {
        let (sender, receiver) = mpsc::channel(1);
        let signal = Arc::new(Notify::new());
        watches.push(name(sender, Arc::clone(&signal)));
        signals.push(signal);
        let received = stream::unfold(receiver, move |mut receiver| async move {
            let update: Update = receiver.recv().await?;
            Some(((place, update), receiver))
        });
        found.push(received.boxed());
    }
    let merge = async {
        let mut known: Vec<Option<Vec<Address>>> = vec![None; count];
        while let Some((place, update)) = found.next().await {
            let merged = match update {
                Err(reason) => Err(reason),
                Ok(addresses) => {
                    known[place] = Some(addresses);
                    let all = union(&known);
                    // The names that have not been resolved yet may have endpoints.
                    if all.is_empty() && known.iter().any(Option::is_none) {
                        continue;
                    }
                    Ok(all)
                }
            };
            if updates.send(merged).await.is_err() {
                return;
            }
        }
    };
    let pass_on_signals = async {
        loop {
            connection_lost.notified().await;
            for signal in &signals {
                signal.notify_one();
            }
        }
    };
    tokio::select! {
        () = merge => {}
        () = pass_on_signals => {}
        _ = join_all(watches) => {}
        () = updates.closed() => {}
    }
}

/// The endpoints of all names, each once, in a stable order.
fn union(known: &[Option<Vec<Address>>]) -> Vec<Address> {
    let mut seen = HashSet::new();
    let all = known.iter().flatten().flatten();
    all.filter(|address| seen.insert(*address)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    /// A name whose updates a test sends, and the signal that it gets.
    fn name() -> (Watch, mpsc::Sender<Update>, mpsc::Receiver<()>) {
        let (send, mut receive) = mpsc::channel::<Update>(1);
        let (signalled, signals) = mpsc::channel(8);
        let watch: Watch = Box::new(move |updates, lost| {
            Box::pin(async move {
                loop {
                    tokio::select! {
                        Some(update) = receive.recv() => updates.send(update).await.unwrap(),
                        () = lost.notified() => signalled.send(()).await.unwrap(),
                    }
                }
            })
        });
        (watch, send, signals)
    }

    #[tokio::test]
    async fn the_endpoints_of_all_names_are_sent_and_an_error_removes_none() {
        let (stable, send_stable, mut stable_signals) = name();
        let (canary, send_canary, mut canary_signals) = name();
        let (updates, mut merged) = mpsc::channel(1);
        let lost = Arc::new(Notify::new());
        let signal = Arc::clone(&lost);
        let watching = tokio::spawn(async move { watch(vec![stable, canary], &updates, signal).await });

        let (first, second) = (address("http://a:1;version=v1"), address("http://b:1;version=v2"));
        send_stable.send(Ok(vec![first.clone()])).await.unwrap();
        assert_eq!(
            merged.recv().await.unwrap().unwrap(),
            *std::slice::from_ref(&first)
        );
        send_canary.send(Err("unknown name".into())).await.unwrap();
        assert_eq!(&*merged.recv().await.unwrap().unwrap_err(), "unknown name");
        send_canary
            .send(Ok(vec![second.clone(), first.clone()]))
            .await
            .unwrap();
        assert_eq!(merged.recv().await.unwrap().unwrap(), [first, second.clone()]);

        lost.notify_one();
        stable_signals.recv().await.unwrap();
        canary_signals.recv().await.unwrap();
        drop(merged);
        watching.await.unwrap();
    }

    #[tokio::test]
    async fn a_target_is_empty_only_when_all_of_its_names_are() {
        let (stable, send_stable, _stable_signals) = name();
        let (canary, send_canary, _canary_signals) = name();
        let (updates, mut merged) = mpsc::channel(1);
        tokio::spawn(async move { watch(vec![stable, canary], &updates, Arc::default()).await });
        send_stable.send(Ok(Vec::new())).await.unwrap();
        send_canary.send(Ok(vec![address("http://b:1")])).await.unwrap();
        assert_eq!(merged.recv().await.unwrap().unwrap(), [address("http://b:1")]);
        send_canary.send(Ok(Vec::new())).await.unwrap();
        assert_eq!(merged.recv().await.unwrap().unwrap(), []);
    }
}
