//! Values that were replaced while somebody still uses them.
//!
//! Whoever lets go of the last reference pays for freeing the value, which takes milliseconds for ten thousand policies. So the
//! replaced ones wait here until nobody else holds them, and are freed by the thread that sweeps, never by one that serves Checks.

use std::sync::{Arc, Mutex, PoisonError};

/// What waits to be freed. It keeps nothing alive longer than its users do, but for the time until the next sweep.
#[derive(Debug)]
pub struct Retired<T>(Mutex<Vec<Arc<T>>>);

impl<T> Default for Retired<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Retired<T> {
    /// Takes over what was replaced. From now on no new reference to it may be made but from one that somebody holds.
    pub fn add(&self, value: Arc<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(value);
    }

    /// Frees, on the calling thread, what nobody else uses; gives how many are left.
    pub fn sweep(&self) -> usize {
        let free = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // INVARIANT: a count of one is ours, and nobody can make it two: there is nobody left to copy from.
            let (free, used): (Vec<_>, Vec<_>) =
                std::mem::take(&mut *waiting).into_iter().partition(|value| Arc::strong_count(value) == 1);
            *waiting = used;
            free
        };
        // Not under the lock: it may take long.
        drop(free);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::*;

    /// Tells on which thread it was freed.
    struct Told(Arc<Mutex<Vec<ThreadId>>>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(thread::current().id());
        }
    }

    #[test]
    fn a_value_is_freed_where_it_is_swept_and_not_where_it_was_used_last() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (retired, value) = (Retired::default(), Arc::new(Told(Arc::clone(&told))));
        retired.add(Arc::clone(&value));
        assert_eq!((retired.sweep(), told.lock().unwrap().len()), (1, 0), "in use");
        thread::spawn(move || drop(value)).join().unwrap();
        assert!(told.lock().unwrap().is_empty(), "the last user does not free it");
        assert_eq!(retired.sweep(), 0);
        assert_eq!(*told.lock().unwrap(), [thread::current().id()]);
    }
}
