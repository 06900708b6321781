//! What clients and the upstream wrote down, and the judges that hold it against the limits.
//!
//! One line for each event, written by one `write` to a file opened for appending, so that lines of processes that are killed
//! at any moment are whole or absent. An execution is the upstream's word: it is what limits are about.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
};

/// What one call does to one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) label: String,
    pub(crate) amount: u64,
    /// Server time at which the counter's window ends; 0 where it says nothing.
    pub(crate) end_ms: u64,
}

/// Where a client writes.
#[derive(Debug)]
pub(crate) struct Writer(File);

impl Writer {
    /// Opens the file.
    pub(crate) fn open(path: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(path).expect("the log can be written"))
    }

    /// The client is about to ask.
    pub(crate) fn asking(&self, id: &str, entries: &[Entry]) {
        self.line(&format!("ask {id} 0{}", words(entries)));
    }

    /// It was refused, and nothing was held.
    pub(crate) fn refused(&self, id: &str) {
        self.line(&format!("no {id} 0"));
    }

    /// Nobody knows whether units are held.
    pub(crate) fn unknown(&self, id: &str) {
        self.line(&format!("lost {id} 0"));
    }

    /// The upstream ran it; `now_ms` is the server time at which the units were held, 0 if nobody knows it.
    pub(crate) fn executed(&self, id: &str, now_ms: u64, entries: &[Entry]) {
        self.line(&format!("run {id} {now_ms}{}", words(entries)));
    }

    /// It is over, on the clock of the machine; written before the slot is given back.
    pub(crate) fn ended(&self, id: &str, now_ms: u64) {
        self.line(&format!("end {id} {now_ms}"));
    }

    /// The units were returned, and the store said so.
    pub(crate) fn returned(&self, id: &str) {
        self.line(&format!("back {id} 0"));
    }

    fn line(&self, text: &str) {
        (&self.0).write_all(format!("{text}\n").as_bytes()).expect("the log can be written");
    }
}

fn words(entries: &[Entry]) -> String {
    entries.iter().map(|entry| format!(" {}:{}:{}", entry.label, entry.amount, entry.end_ms)).collect()
}

/// One call as far as the log knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    asked: Vec<Entry>,
    refused: bool,
    returned: bool,
    run: Option<Run>,
    ended_ms: Option<u64>,
}

#[derive(Clone, Debug)]
struct Run {
    now_ms: u64,
    entries: Vec<Entry>,
}

/// Everything that was written down.
#[derive(Debug)]
pub(crate) struct History {
    calls: BTreeMap<String, Call>,
}

impl History {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut calls: BTreeMap<String, Call> = BTreeMap::new();
        // The last line may be on its way while clients are at work.
        let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
        for line in whole.lines() {
            let mut words = line.split(' ');
            let (Some(event), Some(id), Some(now)) = (words.next(), words.next(), words.next()) else {
                panic!("torn line: {line}");
            };
            let now_ms: u64 = now.parse().unwrap_or_else(|_| panic!("torn line: {line}"));
            let entries: Vec<Entry> = words.map(entry).collect();
            let call = calls.entry(id.to_owned()).or_default();
            match event {
                "ask" => call.asked = entries,
                "no" => call.refused = true,
                "lost" => {}
                "run" => {
                    assert!(call.run.is_none(), "`{id}` ran twice");
                    call.run = Some(Run { now_ms, entries });
                }
                "end" => call.ended_ms = Some(now_ms),
                "back" => call.returned = true,
                _ => panic!("torn line: {line}"),
            }
        }
        Self { calls }
    }

    /// How many calls the upstream ran.
    pub(crate) fn runs(&self) -> usize {
        self.calls.values().filter(|call| call.run.is_some()).count()
    }

    /// How many calls were refused.
    pub(crate) fn refusals(&self) -> usize {
        self.calls.values().filter(|call| call.refused).count()
    }

    /// How many calls gave their units back.
    pub(crate) fn returns(&self) -> usize {
        self.calls.values().filter(|call| call.returned).count()
    }

    /// How many calls nobody knows the end of.
    pub(crate) fn unknowns(&self) -> usize {
        self.calls.values().filter(|call| call.is_unknown()).count()
    }

    /// Units of a counter that the upstream ran.
    pub(crate) fn executed(&self, label: &str) -> u64 {
        self.charges(label).map(|(_, entry)| entry.amount).sum()
    }

    /// Units of a counter of which nobody knows whether they are held.
    pub(crate) fn unknown(&self, label: &str) -> u64 {
        let open = self.calls.values().filter(|call| call.is_unknown());
        open.flat_map(|call| &call.asked).filter(|entry| entry.label == label).map(|entry| entry.amount).sum()
    }

    fn charges<'a>(&'a self, label: &'a str) -> impl Iterator<Item = (&'a Run, &'a Entry)> {
        self.calls.values().filter_map(|call| call.run.as_ref()).flat_map(move |run| {
            run.entries.iter().filter(move |entry| entry.label == label).map(move |entry| (run, entry))
        })
    }

    /// Executions of a counter in the order of the server's time, as far as it is known.
    fn in_time(&self, label: &str) -> Vec<(u64, u64)> {
        let timed = self.charges(label).filter(|(run, _)| run.now_ms > 0);
        let mut all: Vec<_> = timed.map(|(run, entry)| (run.now_ms, entry.amount)).collect();
        all.sort_unstable();
        all
    }

    /// Invariant 1: no calendar window ran more than `max`. Gives the units of each window by its end.
    pub(crate) fn calendar(&self, label: &str, max: u64) -> BTreeMap<u64, u64> {
        let mut windows = BTreeMap::new();
        for (run, entry) in self.charges(label).filter(|(run, _)| run.now_ms > 0) {
            assert!(entry.end_ms > run.now_ms, "`{label}` was held after the end of its window");
            *windows.entry(entry.end_ms).or_insert(0) += entry.amount;
        }
        for (end_ms, used) in &windows {
            assert!(*used <= max, "`{label}`: {used} of {max} ran in the window that ends at {end_ms}");
        }
        windows
    }

    /// Invariant 2: no interval of `window_ms` ran more than `max`, wherever it begins. Gives the most that one did.
    pub(crate) fn rolling(&self, label: &str, window_ms: u64, max: u64) -> u64 {
        let all = self.in_time(label);
        let (mut first, mut sum, mut most) = (0, 0, 0);
        for &(now_ms, amount) in &all {
            sum += amount;
            while all[first].0 + window_ms <= now_ms {
                sum -= all[first].1;
                first += 1;
            }
            most = most.max(sum);
            assert!(sum <= max, "`{label}`: {sum} of {max} ran in the {window_ms} ms before {now_ms}");
        }
        most
    }

    /// Invariant 3: no interval ran more than a full bucket and what came back meanwhile.
    pub(crate) fn bucket(&self, label: &str, interval_us: u64, capacity: u64) {
        let (mut level_us, mut last_ms) = (0_u64, 0_u64);
        for (now_ms, amount) in self.in_time(label) {
            level_us = level_us.saturating_sub((now_ms - last_ms).saturating_mul(1_000)) + amount * interval_us;
            last_ms = now_ms;
            // The log has whole milliseconds: two calls can be one closer than it says.
            let burst_us = capacity * interval_us + 1_000;
            assert!(level_us <= burst_us, "`{label}`: a level of {level_us} µs of {burst_us} at {now_ms}");
        }
    }

    /// Invariant 4: at no moment more than `max` calls ran. A call of a killed client counts for the moment it began only, as
    /// nobody knows its end. Gives the most that ran at once.
    pub(crate) fn in_flight(&self, label: &str, lease_ms: u64, max: u64) -> u64 {
        let mut steps = Vec::new();
        for call in self.calls.values() {
            let Some(run) = call.run.as_ref().filter(|run| run.now_ms > 0) else { continue };
            if !run.entries.iter().any(|entry| entry.label == label) {
                continue;
            }
            let end_ms = call.ended_ms.unwrap_or(run.now_ms).clamp(run.now_ms, run.now_ms + lease_ms);
            if end_ms > run.now_ms {
                steps.push((run.now_ms, true));
                steps.push((end_ms, false));
            }
        }
        // Ends before beginnings of the same millisecond.
        steps.sort_unstable();
        let (mut now, mut most) = (0_u64, 0);
        for (at_ms, begins) in steps {
            now = if begins { now + 1 } else { now - 1 };
            most = most.max(now);
            assert!(now <= max, "`{label}`: {now} of {max} calls ran at {at_ms}");
        }
        most
    }
}

impl Call {
    const fn is_unknown(&self) -> bool {
        self.run.is_none() && !self.refused && !self.returned
    }
}

fn entry(word: &str) -> Entry {
    let mut parts = word.split(':');
    let (Some(label), Some(amount), Some(end)) = (parts.next(), parts.next(), parts.next()) else {
        panic!("torn entry: {word}");
    };
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("torn entry: {word}"));
    Entry { label: label.to_owned(), amount: number(amount), end_ms: number(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(write: impl FnOnce(&Writer)) -> History {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        write(&Writer::open(file.path()));
        History::read(file.path())
    }

    fn on(label: &str, amount: u64, end_ms: u64) -> [Entry; 1] {
        [Entry { label: label.to_owned(), amount, end_ms }]
    }

    #[test]
    #[should_panic(expected = "3 of 2 ran in the window")]
    fn a_window_that_is_exceeded_is_found_out() {
        let history = history(|writer| {
            writer.executed("a", 10, &on("w", 2, 100));
            writer.executed("b", 90, &on("w", 1, 100));
            writer.executed("c", 110, &on("w", 2, 200));
        });
        history.calendar("w", 2);
    }

    #[test]
    #[should_panic(expected = "3 of 2 ran in the 100 ms")]
    fn an_interval_that_is_exceeded_is_found_out() {
        let history = history(|writer| {
            writer.executed("a", 50, &on("w", 2, 0));
            writer.executed("b", 149, &on("w", 1, 0));
        });
        history.rolling("w", 100, 2);
    }

    #[test]
    #[should_panic(expected = "a level of")]
    fn a_bucket_that_is_exceeded_is_found_out() {
        let history = history(|writer| {
            writer.executed("a", 100, &on("w", 2, 0));
            writer.executed("b", 109, &on("w", 1, 0));
        });
        history.bucket("w", 20_000, 2);
    }

    #[test]
    #[should_panic(expected = "2 of 1 calls ran at 20")]
    fn calls_at_once_are_found_out() {
        let history = history(|writer| {
            writer.executed("a", 10, &on("w", 1, 0));
            writer.executed("b", 20, &on("w", 1, 0));
            writer.ended("a", 21);
            writer.ended("b", 30);
        });
        history.in_flight("w", 100, 1);
    }

    #[test]
    fn only_calls_without_an_end_are_unknown() {
        let history = history(|writer| {
            for id in ["refused", "returned", "ran", "lost", "killed"] {
                writer.asking(id, &on("w", 3, 0));
            }
            writer.refused("refused");
            writer.returned("returned");
            writer.executed("ran", 10, &on("w", 3, 0));
            writer.unknown("lost");
        });
        assert_eq!((history.unknown("w"), history.executed("w"), history.unknowns()), (6, 3, 2));
        assert_eq!((history.runs(), history.refusals(), history.returns()), (1, 1, 1));
    }
}
