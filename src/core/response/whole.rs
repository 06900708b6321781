//! A body that is one text: held to its end, and judged once.

use super::{
    Head, Report, Step, Withheld,
    head::Form,
    judge::{Judge, Pass, Place, Role, Ruling, Verdict},
};
use crate::pins::View;

/// One text, as far as it has come.
#[derive(Debug)]
pub(super) struct Whole {
    form: Form,
    held: Vec<u8>,
    /// Bytes that are still to come, where the head said how many.
    missing: Option<u64>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Over,
    /// The pins are to record something first.
    Recording,
    Reading,
}

impl Whole {
    pub(super) fn new(form: Form, head: &Head<'_>) -> Self {
        Self { form, held: Vec::new(), missing: head.content_length, state: State::Reading }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub(super) fn chunk(&mut self, chunk: &[u8], is_end: bool, judge: &mut Judge, report: &mut Report) -> Step {
        match self.state {
            State::Over => return Step::of(chunk, Vec::new()),
            State::Recording => return self.replace(Withheld::Pins, None, judge, report),
            State::Reading => {}
        }
        let chunk_bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let is_longer = self.missing.is_some_and(|missing| missing < chunk_bytes);
        self.missing = self.missing.map(|missing| missing.saturating_sub(chunk_bytes));
        if is_longer || self.held.len().saturating_add(chunk.len()) > judge.job.limits.bytes_max {
            return self.replace(Withheld::Size, None, judge, report);
        }
        // The common case: the whole text in one chunk, which is judged where it lies.
        let is_whole = is_end || self.missing == Some(0);
        if is_whole && self.held.is_empty() {
            let step = self.judge(chunk, Pass::First, judge, report);
            if self.state == State::Recording {
                self.held = chunk.to_vec();
            }
            return step.unwrap_or(Step::Same);
        }
        self.held.extend_from_slice(chunk);
        if !is_whole {
            return Step::of(chunk, Vec::new());
        }
        self.judge_held(Pass::First, judge, report)
    }

    pub(super) fn recorded(&mut self, pins: Option<View>, judge: &mut Judge, report: &mut Report) -> Step {
        match (self.state, pins) {
            (State::Recording, Some(pins)) => {
                judge.job.pins = Some(pins);
                self.judge_held(Pass::Recorded, judge, report)
            }
            (State::Recording, None) => self.replace(Withheld::Pins, None, judge, report),
            (State::Over | State::Reading, _) => Step::Bytes(Vec::new()),
        }
    }

    pub(super) fn give_up(&mut self, judge: &Judge, report: &mut Report) -> Step {
        if self.state == State::Over {
            Step::Bytes(Vec::new())
        } else {
            self.replace(Withheld::Size, None, judge, report)
        }
    }

    fn judge_held(&mut self, pass: Pass, judge: &mut Judge, report: &mut Report) -> Step {
        let held = std::mem::take(&mut self.held);
        let step = self.judge(&held, pass, judge, report);
        if self.state == State::Recording {
            self.held = held;
            return step.unwrap_or(Step::Bytes(Vec::new()));
        }
        step.unwrap_or(Step::Bytes(held))
    }

    /// Judges the whole text; `None` if it may leave as it came.
    fn judge(&mut self, text: &[u8], pass: Pass, judge: &mut Judge, report: &mut Report) -> Option<Step> {
        // Bytes that the head promised and that never came may be the end of a longer text.
        let is_cut = self.missing.is_some_and(|missing| missing > 0);
        let verdict = match self.form {
            _ if is_cut => Verdict { role: Role::Unread, ruling: Ruling::Withhold(Withheld::Json, None) },
            Form::Empty | Form::Text if text.is_empty() => Verdict { role: Role::Unread, ruling: Ruling::Same },
            Form::Empty => Verdict { role: Role::Unread, ruling: Ruling::Withhold(Withheld::MediaType, None) },
            Form::Json { is_success: false } if text.is_empty() => Verdict { role: Role::Unread, ruling: Ruling::Same },
            Form::Json { is_success } => {
                judge.message(text, if is_success { Place::Body } else { Place::ErrorBody }, pass, report)
            }
            Form::Text => Verdict { role: Role::Unread, ruling: words(text, judge, report) },
        };
        let role = verdict.role;
        match verdict.ruling {
            // Of a request, only its answer may come as a body.
            Ruling::Changed(_) | Ruling::Same
                if verdict.role == Role::Other
                    && judge.job.id.is_some()
                    && self.form == (Form::Json { is_success: true }) =>
            {
                Some(self.replace(Withheld::Shape, None, judge, report))
            }
            Ruling::Changed(text) => {
                self.state = State::Over;
                judge.leaves(role, text.as_bytes(), report);
                Some(Step::Bytes(text.into_bytes()))
            }
            Ruling::Record(sighting) => {
                self.state = State::Recording;
                Some(Step::Record(sighting))
            }
            Ruling::Same => {
                self.state = State::Over;
                judge.leaves(role, text, report);
                None
            }
            Ruling::Withhold(why, words) => Some(self.replace(why, words.as_deref(), judge, report)),
        }
    }

    /// Ends the body with the answer that stands in its place.
    fn replace(&mut self, why: Withheld, words: Option<&str>, judge: &Judge, report: &mut Report) -> Step {
        self.state = State::Over;
        self.held = Vec::new();
        if judge.only_records() {
            report.unread = Some(why);
            return Step::Bytes(Vec::new());
        }
        Step::Bytes(judge.withheld(why, words, report).into_bytes())
    }
}

/// Text that is no JSON. A NUL in it is the mark of an encoding of two bytes, which would be judged blindly.
fn words(text: &[u8], judge: &Judge, report: &mut Report) -> Ruling {
    match std::str::from_utf8(text) {
        Ok(text) if !text.contains('\0') => judge.words(text, report),
        Ok(_) | Err(_) => Ruling::Withhold(Withheld::MediaType, None),
    }
}
