//! Which connection reads which range of a body: events in, decisions out, no clock, no socket, no bytes.
//!
//! What must hold: from the reader's place on, ranges lie side by side without gap or overlap, each read by one lane at
//! most; they never reach further ahead of the reader than the window; the first body, which would give all bytes by
//! itself, is let go only once another lane got exactly the range it asked for. Every sequence of events ends.

use std::collections::VecDeque;

use super::super::transfer::{Head, Shared, Validators};

/// Failures of one range after which the body is given up.
const ATTEMPTS: u32 = 5;
/// No range is larger: what came of one is lost when the process is killed.
const LARGEST: u64 = 8 << 20;
/// None is smaller but the last: each costs a round trip.
const SMALLEST: u64 = 64 << 10;

/// A range to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    /// Who asks.
    pub lane: usize,
    /// Its first byte.
    pub from: u64,
    /// The byte after its last.
    pub to: u64,
}

/// What to do with a lane's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Read on.
    Read,
    /// Put it aside, and ask [`Plan::resume`] about it when something has changed.
    Park,
    /// Let go of it.
    Drop,
    /// Let go of everything: the body cannot be had in this way. What is here in order still counts.
    Stop(Stop),
}

/// Why ranges end before the body does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Connections failed too often, or all were refused.
    Failed,
    /// The object is another one now.
    Changed,
    /// The origin gives something else than was asked for: it is not to be asked for ranges again.
    Lied,
}

/// What one connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Idle,
    /// At the range that starts there.
    At(u64),
    /// At a range that was taken from it; its answer may still prove something, what comes then is thrown away.
    Stray {
        from: u64,
        to: u64,
    },
    /// The origin takes no request of it.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Stretch {
    from: u64,
    to: u64,
    /// All before this is here.
    got: u64,
    lane: Option<usize>,
    failures: u32,
}

/// The plan of one body.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    size: u64,
    window: u64,
    end: u64,
    validators: Validators,
    is_judged: bool,
    /// The reader's place.
    at: u64,
    /// From the reader's place to where nobody has asked yet.
    stretches: VecDeque<Stretch>,
    lanes: Vec<Lane>,
    /// Lane 0 is still at the first body.
    first: bool,
    /// A lane got the range that it asked for.
    proven: bool,
    /// Only the first body is read.
    alone: bool,
}

/// How large each range of so many connections is, when `window` bytes may be ahead: so that each has half a range to
/// spare while another one is late.
fn size(connections: u8, window: u64) -> u64 {
    (window * 2 / (u64::from(connections.max(1)) * 3)).clamp(SMALLEST, LARGEST)
}

impl Plan {
    /// A plan for a body whose first bytes are about to be read by lane 0; `None` where it is not worth the while.
    pub(super) fn new(shared: &Shared, connections: u8, window: u64) -> Option<Self> {
        let size = size(connections, window);
        if connections < 2 || shared.end.saturating_sub(shared.from) <= 2 * size {
            return None;
        }
        let mut lanes = vec![Lane::Idle; usize::from(connections)];
        lanes[0] = Lane::At(shared.from);
        let first = Stretch { from: shared.from, to: shared.from + size, got: shared.from, lane: Some(0), failures: 0 };
        Some(Self {
            size,
            window,
            end: shared.end,
            validators: shared.validators.clone(),
            is_judged: shared.is_judged,
            at: shared.from,
            stretches: VecDeque::from([first]),
            lanes,
            first: true,
            proven: false,
            alone: false,
        })
    }

    /// The reader's place.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The reader has all.
    pub(super) fn is_done(&self) -> bool {
        self.at == self.end
    }

    /// Bytes come from more than one response.
    pub(super) fn is_joined(&self) -> bool {
        self.proven
    }

    /// Bytes that are asked for or here, and not the reader's yet, but for one range: what memory has to be had for.
    pub(super) fn ahead(&self) -> u64 {
        self.reach().saturating_sub(self.at).saturating_sub(self.size)
    }

    /// The same once `ask` is out.
    pub(super) fn ahead_with(&self, ask: Ask) -> u64 {
        self.reach().max(ask.to).saturating_sub(self.at).saturating_sub(self.size)
    }

    fn reach(&self) -> u64 {
        self.stretches.back().map_or(self.at, |last| last.to)
    }

    /// The next range to ask for, while a lane is idle: what another lane left, else new ground.
    pub(super) fn wanted(&self) -> Option<Ask> {
        let lane = self.lanes.iter().position(|lane| *lane == Lane::Idle).filter(|_| !self.alone)?;
        if let Some(left) = self.stretches.iter().find(|stretch| stretch.lane.is_none() && stretch.got < stretch.to) {
            return Some(Ask { lane, from: left.got, to: left.to });
        }
        let from = self.reach();
        let to = (from + self.size).min(self.end);
        (from < to && to - self.at <= self.window).then_some(Ask { lane, from, to })
    }

    /// What was wanted is asked for now.
    pub(super) fn asked(&mut self, ask: Ask) {
        let left = self.stretches.iter_mut().find(|stretch| stretch.got == ask.from && stretch.to == ask.to);
        let key = match left {
            Some(left) => {
                left.lane = Some(ask.lane);
                left.from
            }
            None => {
                let Ask { lane, from, to } = ask;
                self.stretches.push_back(Stretch { from, to, got: from, lane: Some(lane), failures: 0 });
                from
            }
        };
        self.lanes[ask.lane] = Lane::At(key);
    }

    /// A lane's answer came.
    pub(super) fn answered(&mut self, lane: usize, head: &Head) -> Next {
        let own = self.stretch(lane).map(|stretch| (stretch.got, stretch.to));
        let (from, to) = match (own, self.lanes[lane]) {
            (Some(own), _) => own,
            (None, Lane::Stray { from, to }) => (from, to),
            _ => return self.let_go(lane),
        };
        match head.status {
            200 | 206 if self.validators.contradict(&head.validators) => self.unfit(Stop::Changed),
            206 if self.fits(head, from, to) => {
                self.proven |= !self.alone;
                if own.is_some() { Next::Read } else { self.let_go(lane) }
            }
            200 | 206 | 416 => self.unfit(Stop::Lied),
            _ => self.refused(lane),
        }
    }

    /// The head is of exactly this range of the same object.
    fn fits(&self, head: &Head, from: u64, to: u64) -> bool {
        let exact = head.range.is_some_and(|range| range.span == Some((from, to - 1)) && range.total == Some(self.end));
        let long = head.length.is_none_or(|length| length == to - from);
        let same = !self.validators.contradict(&head.validators)
            && (self.is_judged || self.validators.are_repeated(&head.validators));
        head.status == 206 && exact && long && same
    }

    /// A lane got no answer that could be read, or one that says no: it is closed, and the others go on.
    pub(super) fn refused(&mut self, lane: usize) -> Next {
        if let Some(stretch) = self.stretch(lane) {
            stretch.lane = None;
        }
        self.lanes[lane] = Lane::Closed;
        let open = self.lanes.iter().filter(|lane| **lane != Lane::Closed).count();
        if open == 0 {
            return Next::Stop(Stop::Failed);
        }
        if open == 1 && !self.proven {
            self.go_alone();
        }
        Next::Drop
    }

    /// Bytes came; how many of them belong to the lane's range, and what follows.
    pub(super) fn came(&mut self, lane: usize, bytes: u64) -> (u64, Next) {
        let first = self.first && lane == 0;
        let (end, proven) = (self.end, self.proven);
        let Some(stretch) = self.stretch(lane) else { return (0, self.let_go(lane)) };
        let taken = bytes.min(stretch.to - stretch.got);
        stretch.got += taken;
        let (full, last) = (stretch.got == stretch.to, stretch.to == end);
        match (full, first && !last) {
            (true, true) if proven => {
                self.first = false;
                (taken, self.let_go(lane))
            }
            (true, true) => (taken, Next::Park),
            // More than was announced: nothing that it says about lengths counts.
            _ if taken < bytes => (taken, Next::Stop(Stop::Lied)),
            _ => (taken, Next::Read),
        }
    }

    /// What becomes of the first body that was put aside at the end of its range.
    pub(super) fn resume(&mut self) -> Next {
        if self.proven {
            self.first = false;
            return self.let_go(0);
        }
        let Lane::At(key) = self.lanes[0] else { return Next::Drop };
        if self.stretches.iter().any(|stretch| stretch.from == key) {
            // The reader is not there yet.
            return Next::Park;
        }
        // Nobody has any of the next range, or ranges would be proven: the first body goes on into it.
        if self.stretches.is_empty() {
            let to = (self.at + self.size).min(self.end);
            self.stretches.push_back(Stretch { from: self.at, to, got: self.at, lane: None, failures: 0 });
        }
        let Some(next) = self.stretches.front_mut() else { return Next::Drop };
        if let Some(other) = next.lane.replace(0) {
            self.lanes[other] = Lane::Stray { from: next.from, to: next.to };
        }
        self.lanes[0] = Lane::At(next.from);
        Next::Read
    }

    /// A lane's body ended as its length said.
    pub(super) fn ended(&mut self, lane: usize) -> Next {
        match self.stretch(lane) {
            Some(stretch) if stretch.got < stretch.to => self.failed(lane),
            _ => self.let_go(lane),
        }
    }

    /// A lane's body broke off: the rest of its range is asked for again.
    pub(super) fn failed(&mut self, lane: usize) -> Next {
        let first = self.first && lane == 0;
        let hopeless = match self.stretch(lane) {
            None => false,
            Some(stretch) => {
                stretch.lane = None;
                stretch.failures += 1;
                stretch.failures >= ATTEMPTS
            }
        };
        if hopeless || (first && !self.proven) {
            return Next::Stop(Stop::Failed);
        }
        self.first &= !first;
        self.let_go(lane)
    }

    /// A lane's body came too slowly: others read what is left of its range.
    pub(super) fn slow(&mut self, lane: usize) -> Next {
        match self.lanes[lane] {
            Lane::At(_) if self.first && lane == 0 && !self.proven => Next::Stop(Stop::Failed),
            Lane::Stray { .. } => self.let_go(lane),
            _ => {
                self.first &= lane != 0;
                self.refused(lane)
            }
        }
    }

    /// The reader took so many bytes, in order.
    pub(super) fn read(&mut self, bytes: u64) {
        self.at += bytes;
        while self.stretches.front().is_some_and(|stretch| stretch.to <= self.at) {
            self.stretches.pop_front();
        }
    }

    fn stretch(&mut self, lane: usize) -> Option<&mut Stretch> {
        let Lane::At(key) = self.lanes[lane] else { return None };
        self.stretches.iter_mut().find(|stretch| stretch.from == key && stretch.lane == Some(lane))
    }

    fn let_go(&mut self, lane: usize) -> Next {
        self.lanes[lane] = Lane::Idle;
        Next::Drop
    }

    fn unfit(&mut self, why: Stop) -> Next {
        if self.proven {
            return Next::Stop(why);
        }
        self.go_alone();
        Next::Drop
    }

    /// The first body is read to its end, and nothing else.
    fn go_alone(&mut self) {
        self.alone = true;
        self.stretches.retain(|stretch| stretch.lane == Some(0) || stretch.got > stretch.from);
    }
}

#[cfg(test)]
mod tests;
