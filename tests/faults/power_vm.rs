//! Power losses of a whole machine: Debian's kernel with ext4 and XFS on a virtual disk. Its power is taken in three ways, in
//! turn; the next start replays the file system's journal, and says what it finds.
//!
//! What must hold: what the machine said to have been acknowledged, up to its loss or until its disk was told to keep nothing
//! any more, is there; what is seen is whole. Not a line of what it says can be missed.

mod cache;
mod judge;
mod kit;
mod machine;

use std::time::Duration;

use crate::report::{Asked, Part, Row};
use cache::Taken;
use judge::{Acknowledged, Told, judge};
use kit::{Disk, Kit};

const RUNS: u64 = 30;
/// A loss comes after at most so many lines of work, which are a few rounds of it, and then so many milliseconds.
const LINES: usize = 40;
const THEN: u64 = 1_500;

pub(crate) const PART: Part = Part {
    name: "power-vm",
    about: "power losses of a virtual machine with ext4 and XFS (qemu and Debian's kernel are fetched); SEED=N: other ones; \
            VM_ALOUD=1 shows all that is said",
    run: all,
};

/// What becomes of what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// What the kernel gave to the disk is there: qemu is killed.
    Killed,
    /// dm-flakey drops it all from one moment on, while the machine goes on for a while.
    Dropped,
    /// What the disk was not told to flush is there or not, in any order.
    Cached,
}

const WAYS: [Way; 3] = [Way::Killed, Way::Dropped, Way::Cached];

/// What losses of one way came to.
#[derive(Default)]
struct Found {
    losses: u64,
    wrong: u64,
    taken: Taken,
}

fn all(asked: Asked) -> Vec<Row> {
    let runs = asked.runs.unwrap_or(RUNS);
    let seed: u64 = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    let kit = Kit::new();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut found = WAYS.map(|_| Found::default());
    let mut acknowledged = 0;
    for (fs, runs) in [("ext4", runs.div_ceil(2)), ("xfs", runs / 2)] {
        let mut disk = kit.disk(fs);
        let mut known = Acknowledged::default();
        let mut last = None;
        // One more start looks at what the last loss left.
        for run in 0..=runs {
            let at = (run < runs).then_some((run + seed) as usize % WAYS.len());
            let (told, taken) = live(&kit, &disk, at.map(|at| WAYS[at]), &mut rng);
            let wrong = judge(&kit.trees, &told, &mut known);
            wrong.iter().for_each(|line| eprintln!("{fs}, loss {run}, {:?}: {line}", last.map(|at: usize| WAYS[at])));
            if let Some(last) = last {
                found[last].wrong += wrong.len() as u64;
            } else {
                assert!(wrong.is_empty(), "a machine on a new disk: {}", console(&kit));
            }
            if let Some(at) = at {
                found[at].losses += 1;
                found[at].taken.unflushed += taken.unflushed;
                found[at].taken.lost += taken.lost;
                eprintln!("{fs}, loss {}: {:?} after {} lines, {taken:?}", run + 1, WAYS[at], told.lines.len());
            }
            last = at;
            if !wrong.is_empty() {
                eprintln!("{}", console(&kit));
                // What it lost must not be found again.
                acknowledged += std::mem::take(&mut known).count;
                (disk, last) = (kit.disk(fs), None);
            }
        }
        acknowledged += known.count;
    }
    eprintln!("{acknowledged} versions, pins and leases were acknowledged");
    WAYS.iter().zip(&found).map(|(way, found)| row(*way, found, acknowledged)).collect()
}

/// From one start to the loss; without a way it comes as soon as all is looked at.
fn live(kit: &Kit, disk: &Disk, way: Option<Way>, rng: &mut fastrand::Rng) -> (Told, Taken) {
    let mut machine = kit.boot(disk, way == Some(Way::Cached));
    let mut certain = None;
    let (lines, then) = (rng.usize(0..LINES), Duration::from_millis(rng.u64(0..THEN)));
    if machine.is_checked() && way.is_some() {
        machine.work(lines, then);
        if way == Some(Way::Dropped) {
            certain = Some(machine.drop_writes());
            machine.work(rng.usize(0..LINES / 2), Duration::ZERO);
        }
    }
    let told = machine.lose_power(certain);
    let mut taken = Taken::default();
    if way == Some(Way::Cached) {
        // All, or nearly all, is lost, or half of it.
        let kept = *rng.choice(&[0.0, 0.1, 0.5]).expect("it is not empty");
        taken = kit.lose_cache(disk, || rng.f64() < kept);
    }
    (told, taken)
}

/// The end of what its kernel said last.
fn console(kit: &Kit) -> String {
    let said = std::fs::read(kit.console()).unwrap_or_default();
    String::from_utf8_lossy(&said[said.len().saturating_sub(2000)..]).into_owned()
}

fn row(way: Way, found: &Found, acknowledged: usize) -> Row {
    let Found { losses, wrong, taken } = found;
    let how = match way {
        Way::Killed => "qemu killed".to_owned(),
        Way::Dropped => "dm-flakey drops what is written".to_owned(),
        Way::Cached => {
            format!("the disk's cache lost, with {} of {} pieces that were not flushed", taken.lost, taken.unflushed)
        }
    };
    Row {
        fault: format!("power loss of a virtual machine with ext4 and XFS, {losses} times: {how}"),
        figure: format!("{wrong} lost or partial"),
        reach: "0",
        reached: *wrong == 0 && *losses > 0 && acknowledged > 0 && (way != Way::Cached || taken.lost > 0),
    }
}
