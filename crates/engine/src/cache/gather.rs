//! Reading for many at once: one by one, each would wake a thread and see a moment of its own, and after a start everybody
//! waits for that.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, oneshot};

/// Things that are read at once.
const TOGETHER_MAX: usize = 64;
/// Such reads under way: what is asked for meanwhile is read next.
const READS_MAX: usize = 2;

/// Gathers what is asked for while something is read.
#[derive(Debug)]
pub struct Gather<K, A> {
    /// Who waits for the next read, in the order they came.
    waiting: Mutex<VecDeque<(K, oneshot::Sender<A>)>>,
    reads: Semaphore,
}

impl<K, A> Default for Gather<K, A> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            reads: Semaphore::new(READS_MAX),
        }
    }
}

impl<K: Clone, A> Gather<K, A> {
    /// The answer to `key`. `read` answers each of up to 64 keys, in their order; it may be asked on behalf of others, or
    /// theirs for this one.
    pub async fn get<R: Future<Output = Vec<A>>>(&self, key: K, read: impl Fn(Vec<K>) -> R) -> A {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.waiting().push_back((key.clone(), answer));
            let answer = loop {
                tokio::select! {
                    biased;
                    answer = &mut answered => break answer,
                    turn = self.reads.acquire() => {
                        let somebody_waited = self.read(&read).await;
                        drop(turn);
                        // Another one reads for this one too.
                        if !somebody_waited {
                            break answered.await;
                        }
                    }
                }
            };
            // Whoever read for it may be gone, and then it is asked for anew.
            if let Ok(answer) = answer {
                return answer;
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(K, oneshot::Sender<A>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads for those who have waited longest; false where nobody waits.
    async fn read<R: Future<Output = Vec<A>>>(&self, read: impl Fn(Vec<K>) -> R) -> bool {
        let (mut keys, mut answers) = (Vec::new(), Vec::new());
        {
            let mut waiting = self.waiting();
            while keys.len() < TOGETHER_MAX {
                let Some((key, answer)) = waiting.pop_front() else {
                    break;
                };
                // Who asked may be gone.
                if !answer.is_closed() {
                    keys.push(key);
                    answers.push(answer);
                }
            }
        }
        if keys.is_empty() {
            return false;
        }
        for (answer, found) in answers.into_iter().zip(read(keys).await) {
            drop(answer.send(found));
        }
        true
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test waits for what it spawns")]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_meanwhile_is_read_together_and_each_gets_its_own() {
        let gather = Arc::new(Gather::default());
        let reads = Arc::new(AtomicUsize::new(0));
        let asked = (0..1_000_usize).map(|key| {
            let (gather, reads) = (gather.clone(), reads.clone());
            tokio::spawn(async move {
                let read = |keys: Vec<usize>| {
                    reads.fetch_add(1, Ordering::Relaxed);
                    async move {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        keys.into_iter().map(|key| key * 2).collect()
                    }
                };
                gather.get(key, read).await
            })
        });
        for (key, answer) in asked.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), key * 2);
        }
        // The first two have nobody beside them; all others wait for those.
        assert_eq!(
            reads.load(Ordering::Relaxed),
            2 + 998_usize.div_ceil(TOGETHER_MAX)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_it_reads_leaves_nobody_without_an_answer() {
        let gather = Arc::new(Gather::<u8, u8>::default());
        // The first two and whoever reads next never come to an end; that one reads for those behind it too.
        let ask = |key, is_stuck: bool| {
            let gather = gather.clone();
            tokio::spawn(async move {
                let read = |keys: Vec<u8>| async move {
                    if is_stuck {
                        std::future::pending::<()>().await;
                    }
                    keys
                };
                gather.get(key, read).await
            })
        };
        let first = [ask(1, true), ask(2, true)];
        tokio::task::yield_now().await;
        let next = ask(3, true);
        let behind = [ask(4, false), ask(5, false)];
        tokio::task::yield_now().await;
        first[0].abort();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(behind.iter().all(|asked| !asked.is_finished()));
        next.abort();
        for (asked, key) in behind.into_iter().zip([4, 5]) {
            let answer = tokio::time::timeout(Duration::from_secs(1), asked).await;
            assert_eq!(answer.unwrap().unwrap(), key);
        }
    }
}
