//! Work of the host on several threads: what is done with logits between two graphs.

/// Calls `each` with every item, on `n_threads` threads, the caller's among them. The first has the first items, and
/// so on.
pub(super) fn for_each<T: Send>(n_threads: usize, mut items: Vec<T>, each: impl Fn(T) + Sync) {
    let each = &each;
    let n_part = items.len().div_ceil(n_threads.max(1)).max(1);
    std::thread::scope(|scope| {
        while items.len() > n_part {
            let part = items.split_off(items.len() - n_part);
            scope.spawn(move || part.into_iter().for_each(each));
        }
        items.into_iter().for_each(each);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::for_each;

    #[test]
    fn every_item_has_its_turn_once() {
        for (n_threads, n_items) in [(1, 5), (2, 5), (3, 2), (4, 0), (8, 64)] {
            let counts: Vec<_> = (0..n_items).map(|_| AtomicUsize::new(0)).collect();
            for_each(n_threads, counts.iter().collect(), |count: &AtomicUsize| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{n_threads} threads");
        }
    }
}
