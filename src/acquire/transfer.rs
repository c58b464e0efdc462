//! Resume as a pure state machine: events in, steps out, no clock, no socket, no disk.
//!
//! What must hold: a body is taken only at the offset where the part ends, and only when it is the same object: a 206
//! on If-Range with a strong validator of the same address, its ETag repeated, its Content-Range exact. Between
//! addresses, and without such a validator or its repetition, parts are joined only where a strong digest is demanded:
//! it judges the joined whole, and when it finds it wrong, the download starts anew once from nothing before anybody is
//! blamed. Every sequence of events ends.

mod head;
mod rules;
mod step;

use std::time::Duration;

#[cfg(test)]
pub(super) use head::ContentRange;
pub(super) use head::{Head, Validators};
pub(super) use rules::{AHEAD, Rules};
pub(super) use step::{Event, GiveUp, Range, Step};

/// What the part on disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// Index of the address that sent its last bytes.
    pub location: usize,
    /// What that address said of the object.
    pub validators: Validators,
    /// Bytes of the whole object, where they are known.
    pub total: Option<u64>,
}

/// What of an object several connections may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    /// Where the first body starts.
    pub from: u64,
    /// Bytes of the object; the first body ends there.
    pub end: u64,
    /// What the origin said of the object; strong, so that If-Range can hold others to it.
    pub validators: Validators,
    /// A strong digest is demanded: it judges the joined whole.
    pub is_judged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A request is out; `from` when it is for the rest only.
    Asking {
        from: Option<u64>,
    },
    /// A body is being read that should end at `end`.
    Receiving {
        end: Option<u64>,
    },
    Waiting,
    Judging,
    Ended(Option<GiveUp>),
}

/// A download.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    rules: Rules,
    locations: usize,
    /// A strong digest is demanded.
    spliceable: bool,
    chance: fastrand::Rng,
    state: State,
    location: usize,
    /// Addresses that were given up, this one not counted.
    tried: usize,
    /// Failures of this address without [`Rules::progress`] bytes between them.
    failures: u32,
    since_failure: u64,
    /// It gave [`Rules::progress`] bytes since it failed last.
    progressed: bool,
    /// How often this address made the download start anew.
    anew: u32,
    /// This address does not do ranges right.
    barred: bool,
    held: Option<Held>,
    offset: u64,
    /// The part comes from more than one response, or from before a restart.
    spliced: bool,
    /// A splice was wrong once; what comes now is whole, and wrong only if the origin is.
    mistrusted: bool,
    retry_after: Option<Duration>,
    /// The address that had more bytes than are allowed.
    too_large: Option<usize>,
}

impl Transfer {
    /// A download from `locations` addresses, on top of `resumed`: what is held, and how many bytes of it. `spliceable`:
    /// a strong digest is demanded.
    pub(super) fn start(
        rules: Rules,
        locations: usize,
        spliceable: bool,
        resumed: Option<(Held, u64)>,
        seed: u64,
    ) -> (Self, Step) {
        let resumed = resumed.filter(|(held, offset)| *offset > 0 && held.location < locations);
        let (held, offset) = resumed.map_or((None, 0), |(held, offset)| (Some(held), offset));
        let this = Self {
            rules,
            locations,
            spliceable,
            chance: fastrand::Rng::with_seed(seed),
            state: State::Waiting,
            location: held.as_ref().map_or(0, |held| held.location),
            tried: 0,
            failures: 0,
            since_failure: 0,
            progressed: false,
            anew: 0,
            barred: false,
            spliced: held.is_some(),
            held,
            offset,
            mistrusted: false,
            retry_after: None,
            too_large: None,
        };
        if this.total() == Some(this.offset) { this.judge() } else { this.ask() }
    }

    /// What the part is now, to be noted; `None` before anything was taken.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// The address being asked.
    pub(super) fn location(&self) -> usize {
        self.location
    }

    /// The body about to be read, if one validator vouches for all ranges of it: then several connections may read it.
    pub(super) fn shareable(&self) -> Option<Shared> {
        let State::Receiving { end: Some(end) } = self.state else { return None };
        let held = self.held.as_ref().filter(|held| held.validators.strong.is_some() && held.total == Some(end))?;
        let shared = Shared { from: self.offset, end, validators: held.validators.clone(), is_judged: self.spliceable };
        (!self.barred && !self.mistrusted).then_some(shared)
    }

    /// What is being received comes from more than one response.
    pub(super) fn joined(mut self) -> Self {
        self.spliced = true;
        self
    }

    fn total(&self) -> Option<u64> {
        self.held.as_ref().and_then(|held| held.total)
    }

    /// The next step after `event`. An event that does not fit the last step counts as a failure of the address.
    pub(super) fn on(mut self, event: Event) -> (Self, Step) {
        match (self.state, event) {
            (State::Ended(None), _) => (self, Step::Done),
            (State::Ended(Some(why)), _) => (self, Step::GiveUp(why)),
            (State::Asking { from }, Event::Head(head)) => self.head(from, head),
            (State::Receiving { end }, Event::Chunk(bytes)) => self.chunk(end, bytes),
            (State::Receiving { end }, Event::End) => self.end(end),
            (State::Waiting, Event::Waited) => self.ask(),
            (State::Judging, Event::Good) => {
                self.state = State::Ended(None);
                (self, Step::Done)
            }
            // It was what ended the body, too: the next address is to be asked already, and has given nothing wrong.
            (State::Asking { .. }, Event::Wrong) => self.emptied().ask(),
            (_, Event::Wrong) => self.wrong(),
            (_, Event::Slow) => self.slow(),
            (_, Event::Refused) => self.next(GiveUp::Unavailable { retry_after: None }),
            _ => self.retry(None),
        }
    }

    fn ask(mut self) -> (Self, Step) {
        let range = self.range();
        self.state = State::Asking { from: range.as_ref().map(|range| range.from) };
        let step = Step::Ask { location: self.location, range };
        (self, step)
    }

    fn range(&self) -> Option<Range> {
        let held = self.held.as_ref().filter(|_| self.offset > 0 && !self.barred)?;
        let strong = held.validators.strong.clone().filter(|_| held.location == self.location);
        (strong.is_some() || self.spliceable).then_some(Range { from: self.offset, if_range: strong })
    }

    fn head(self, from: Option<u64>, head: Head) -> (Self, Step) {
        match (head.status, from) {
            (200, _) => self.whole(head),
            (206, Some(from)) => self.rest(from, head),
            (416, Some(from)) => {
                let total = head.range.and_then(|range| range.total);
                // Ranges past the end: the whole object is here already, if it is that object.
                if total == Some(from) && self.total().is_none_or(|known| known == from) && !self.changed(&head) {
                    return self.judge();
                }
                self.bar()
            }
            (408 | 425 | 429 | 500..=599, _) => self.retry(head.retry_after),
            _ => self.next(GiveUp::Unavailable { retry_after: None }),
        }
    }

    /// The whole object from its first byte.
    fn whole(mut self, head: Head) -> (Self, Step) {
        if head.length.is_some_and(|length| length > self.rules.max_bytes) {
            return self.next(GiveUp::TooLarge);
        }
        if self.offset > 0 {
            self.anew += 1;
            if self.anew > self.rules.anew {
                return self.next(GiveUp::Unstable);
            }
        }
        self.offset = 0;
        self.spliced = false;
        self.held = Some(Held { location: self.location, validators: head.validators, total: head.length });
        self.state = State::Receiving { end: head.length };
        (self, Step::Receive { from: 0 })
    }

    /// The rest of the object.
    fn rest(mut self, from: u64, head: Head) -> (Self, Step) {
        let known = self.total();
        let fits = head.range.and_then(|range| range.span.zip(range.total)).filter(|((first, last), total)| {
            *first == from
                && first <= last
                && last < total
                && known.is_none_or(|known| known == *total)
                && head.length.is_none_or(|length| length == last - first + 1)
        });
        let fits = fits.filter(|_| !self.changed(&head) && (self.spliceable || self.repeats(&head)));
        let Some(((_, last), total)) = fits else { return self.bar() };
        if total > self.rules.max_bytes {
            return self.next(GiveUp::TooLarge);
        }
        let kept = self.held.take().filter(|held| held.location == self.location).map(|held| held.validators);
        // A 206 need not repeat all that the first answer said.
        let validators = match kept {
            Some(kept) if head.validators.strong.is_none() => kept,
            _ => head.validators,
        };
        self.held = Some(Held { location: self.location, validators, total: Some(total) });
        self.spliced = true;
        self.state = State::Receiving { end: Some(last + 1) };
        (self, Step::Receive { from })
    }

    /// The address itself says that this is not what it sent before.
    fn changed(&self, head: &Head) -> bool {
        let held = self.held.as_ref().filter(|held| held.location == self.location);
        held.is_some_and(|held| held.validators.contradict(&head.validators))
    }

    /// The address says that this is a part of what it sent before.
    fn repeats(&self, head: &Head) -> bool {
        let held = self.held.as_ref().filter(|held| held.location == self.location);
        held.is_none_or(|held| held.validators.are_repeated(&head.validators))
    }

    fn chunk(mut self, end: Option<u64>, bytes: u64) -> (Self, Step) {
        let Some(offset) = self.offset.checked_add(bytes).filter(|offset| *offset <= self.rules.max_bytes) else {
            return self.next(GiveUp::TooLarge);
        };
        if end.is_some_and(|end| offset > end) {
            // More than was announced: nothing that this address says about lengths counts.
            self.barred = true;
            return self.retry(None);
        }
        self.offset = offset;
        self.since_failure = self.since_failure.saturating_add(bytes);
        if self.since_failure >= self.rules.progress {
            self.failures = 0;
            self.since_failure = 0;
            self.progressed = true;
        }
        (self, Step::Take)
    }

    fn end(self, end: Option<u64>) -> (Self, Step) {
        let short = end.is_some_and(|end| self.offset < end);
        let more = self.total().is_some_and(|total| self.offset < total);
        if short || more { self.retry(None) } else { self.judge() }
    }

    fn judge(mut self) -> (Self, Step) {
        self.state = State::Judging;
        (self, Step::Judge)
    }

    /// Nothing of what came counts.
    fn emptied(self) -> Self {
        Self { offset: 0, held: None, ..self }
    }

    fn wrong(mut self) -> (Self, Step) {
        self = self.emptied();
        if self.spliced && !self.mistrusted {
            self.spliced = false;
            self.mistrusted = true;
            return self.ask();
        }
        self.next(GiveUp::Wrong)
    }

    /// This address is asked for the whole object from now on.
    fn bar(mut self) -> (Self, Step) {
        self.barred = true;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.rules.attempts {
            return self.next(GiveUp::Unavailable { retry_after: None });
        }
        self.ask()
    }

    /// The same address once more, after a while.
    fn retry(mut self, after: Option<Duration>) -> (Self, Step) {
        self.failures = self.failures.saturating_add(1);
        self.since_failure = 0;
        self.progressed = false;
        if after.is_some_and(|after| after > self.rules.patience) || self.failures >= self.rules.attempts {
            return self.next(GiveUp::Unavailable { retry_after: after });
        }
        self.state = State::Waiting;
        let wait = after.unwrap_or_else(|| self.rules.back_off(self.failures, self.chance.f64()));
        (self, Step::Wait(wait))
    }

    /// Asked again at once where it had been of use; else others are, since each try costs a whole window of waiting.
    fn slow(self) -> (Self, Step) {
        if self.progressed { self.retry(None) } else { self.next(GiveUp::Unavailable { retry_after: None }) }
    }

    /// The next address, or the end.
    fn next(mut self, why: GiveUp) -> (Self, Step) {
        if let GiveUp::Unavailable { retry_after: Some(after) } = why {
            self.retry_after = Some(self.retry_after.map_or(after, |known| known.min(after)));
        }
        if why == GiveUp::TooLarge {
            self.too_large = Some(self.location);
        }
        self.tried += 1;
        if self.tried >= self.locations {
            return match (why, self.too_large) {
                // That it has too much is what can be said of the object, not that others do not have it.
                (GiveUp::Unavailable { .. } | GiveUp::Unstable, Some(location)) => {
                    self.location = location;
                    self.give_up(GiveUp::TooLarge)
                }
                (GiveUp::Unavailable { .. }, None) => {
                    let retry_after = self.retry_after;
                    self.give_up(GiveUp::Unavailable { retry_after })
                }
                (other, _) => self.give_up(other),
            };
        }
        self.location = (self.location + 1) % self.locations;
        (self.failures, self.since_failure, self.anew) = (0, 0, 0);
        (self.progressed, self.barred) = (false, false);
        self.ask()
    }

    fn give_up(mut self, why: GiveUp) -> (Self, Step) {
        self.state = State::Ended(Some(why));
        (self, Step::GiveUp(why))
    }
}

#[cfg(test)]
mod tests;
