//! Errors from the disk: every call by which a daemon or a client changes files is made to fail, one place after the other, by every
//! error that disks give, once, and by one of them for a while.
//!
//! First each step is made without errors, and its calls are noted: a call site is a step, a call and a path. Of calls
//! that a step makes several times at one path, as the writes of one file, the first and the last are made to fail. After
//! each error it is looked at, from outside: nothing was acknowledged that is not there and durable, what was there is
//! served, no sync that failed was tried again and called success, operators are told, and once the error is gone all
//! comes to what it should without anybody's help.

mod full;
mod look;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::fixture::loopfs::LoopFs;
use crate::fixture::syscalls::{Call, Fault, Supervisor, Watch, supervised};
use crate::fixture::{calls, scratch};
use crate::report::{Asked, Part, Row};
use look::Marks;
use world::{STEPS, Step, World};

pub(crate) const PART: Part =
    Part { name: "disk", about: "every call that changes files fails by every error, once and for a while", run };

const ERRORS: [(&str, Errno); 4] =
    [("EIO", Errno::IO), ("ENOSPC", Errno::NOSPC), ("EDQUOT", Errno::DQUOT), ("EROFS", Errno::ROFS)];
/// Nodes side by side: they mostly wait until they try again.
const NODES: usize = 8;
/// For so long an error that stays stays, from when it is first met.
const HELD: Duration = Duration::from_secs(3);
/// In which a node must come back by itself.
const LIMIT: Duration = Duration::from_secs(30);
/// What is just being removed or seeded is in its place by then; what was swapped out of a target, and cannot be moved out
/// of sight, stays in it for 3 s.
const SETTLED: Duration = Duration::from_secs(5);
/// What a step leaves to threads behind everyone's back is done by then.
const BEHIND: Duration = Duration::from_secs(2);
/// At most one in so many runs may not meet its error; about one in 20 does not.
const MISSED: usize = 10;
/// Then it is given up.
const PATIENCE: Duration = Duration::from_secs(90);

/// A place in the daemon where it changes files.
#[derive(Clone)]
struct Site {
    step: usize,
    name: &'static str,
    path: String,
    /// Which of the calls there.
    after: usize,
}

/// One run: a site, an error, and how often it comes.
#[derive(Clone)]
struct Run {
    site: Site,
    error: (&'static str, Errno),
    times: usize,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { site, error, times } = self;
        let how = if *times == 1 { "once" } else { "held" };
        write!(f, "{}: {} {} #{} {} {how}", STEPS[site.step].name, site.name, site.path, site.after + 1, error.0)
    }
}

/// What runs came to.
#[derive(Default)]
struct Found {
    runs: usize,
    missed: Vec<String>,
    open: Vec<String>,
    retried: Vec<String>,
    unserved: Vec<String>,
    silent: Vec<String>,
    slow: Vec<String>,
    slowest: Duration,
}

impl Found {
    /// At once: a campaign that is cut short has found what it has found.
    fn tell(&self) {
        let tell = |what: &str, lines: &[String]| lines.iter().for_each(|line| eprintln!("{what}: {line}"));
        tell("failed open", &self.open);
        tell("tried again and called success", &self.retried);
        tell("not served", &self.unserved);
        tell("slow", &self.slow);
        tell("not told", &self.silent);
        tell("met no error", &self.missed);
    }
}

fn run(asked: Asked) -> Vec<Row> {
    supervised(move |supervisor| {
        let (dir, xfs) = (scratch(), LoopFs::xfs());
        // Reflinks are made on the one, hard links on the other.
        let places = [dir.path(), xfs.path()];
        let mut sites = Vec::new();
        let mut runs = Vec::new();
        let noted = std::thread::scope(|scope| {
            let noting = places.map(|path| scope.spawn(move || sites_of(supervisor, path)));
            noting.map(|noted| noted.join().unwrap())
        });
        for (place, here) in noted.into_iter().enumerate() {
            eprintln!("{} call sites on {}", here.len(), if place == 0 { "the disk" } else { "XFS" });
            let known = |sites: &[(usize, Site)], site: &Site| {
                sites.iter().any(|(_, known)| {
                    (known.name, &known.path, known.after == 0) == (site.name, &site.path, site.after == 0)
                })
            };
            // What an earlier step does at that place is the same place in the code.
            for site in here {
                if !known(&sites, &site) {
                    sites.push((place, site));
                }
            }
        }
        for (place, site) in &sites {
            for (at, error) in ERRORS.into_iter().enumerate() {
                // What is met for a while is met by one error for each site, which one goes round.
                let held = (site.path.len() + site.name.len() + site.step + at).is_multiple_of(ERRORS.len());
                for times in if held { &[1, usize::MAX][..] } else { &[1] } {
                    runs.push((*place, Run { site: site.clone(), error, times: *times }));
                }
            }
        }
        if let Ok(path) = std::env::var("DISK_SITES") {
            let lines = sites
                .iter()
                .map(|(place, s)| format!("{place} {}: {} {} #{}\n", STEPS[s.step].name, s.name, s.path, s.after + 1));
            std::fs::write(path, lines.collect::<String>()).unwrap();
        }
        // What a step finds is what others left: in one order some faults never meet.
        let seed =
            std::env::var("DISK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        eprintln!("in the order of DISK_SEED={seed}");
        fastrand::Rng::with_seed(seed).shuffle(&mut runs);
        if let Some(most) = asked.runs.and_then(|most| usize::try_from(most).ok()) {
            runs.truncate(most);
        }
        if let Ok(only) = std::env::var("DISK_ONLY") {
            runs.retain(|(_, run)| run.to_string().contains(&only));
        }
        let began = Instant::now();
        let (queue, found) = (Mutex::new(runs), Mutex::new(Found::default()));
        std::thread::scope(|scope| {
            for worker in 0..NODES {
                let (queue, found, places) = (&queue, &found, &places);
                scope.spawn(move || {
                    work(supervisor, places[usize::from(worker == 0)], usize::from(worker == 0), queue, found)
                });
            }
        });
        let found = found.into_inner().unwrap();
        eprintln!("{} runs in {:.0?}", found.runs, began.elapsed());
        vec![row(sites.len(), &found), full::run()]
    })
}

fn row(sites: usize, found: &Found) -> Row {
    Row {
        fault: format!(
            "disk errors at every call site: {sites} sites x {} errors, once and held, {} runs ({} met none)",
            ERRORS.len(),
            found.runs,
            found.missed.len()
        ),
        figure: format!(
            "failed open {}; retried and called success {}; not served meanwhile {}; not told {}; slowest recovery {:.1} s \
             ({} over 30 s)",
            found.open.len(),
            found.retried.len(),
            found.unserved.len(),
            found.silent.len(),
            found.slowest.as_secs_f64(),
            found.slow.len()
        ),
        reach: "all fail closed, none retried and called success; back by itself within 30 s",
        // What a step does behind everyone's back it does not do at the same place each time.
        reached: found.runs > 0
            && found.missed.len() * MISSED <= found.runs
            && [&found.open, &found.retried, &found.unserved, &found.silent, &found.slow]
                .iter()
                .all(|lines| lines.is_empty()),
    }
}

/// Makes every step without errors, twice, and notes the calls of the second.
fn sites_of(supervisor: &Supervisor, place: &std::path::Path) -> Vec<Site> {
    let mut world = World::new(supervisor, place);
    let mut sites = Vec::new();
    for round in 0..2 {
        for (at, step) in STEPS.iter().enumerate() {
            world.prepare(step);
            world.watch.forget();
            (step.ask)(&mut world).unwrap_or_else(|error| panic!("{}: {error}", step.name));
            crate::fixture::until(step.name, crate::fixture::PATIENCE, || (step.done)(&world).then_some(()));
            // What comes of it behind everyone's back.
            std::thread::sleep(if round == 0 { Duration::ZERO } else { BEHIND });
            if round == 1 {
                sites.extend(sites_in(at, &world.watch.calls()));
            }
        }
    }
    sites
}

fn sites_in(step: usize, calls: &[Call]) -> Vec<Site> {
    let mut counts: BTreeMap<(&'static str, &str), usize> = BTreeMap::new();
    for call in calls {
        *counts.entry((call.name, &call.path)).or_default() += 1;
    }
    let written = |path: &str| calls.iter().any(|call| matches!(call.name, "create" | "write") && call.path == path);
    let of = |((name, path), count): (&(&'static str, &str), &usize)| {
        // Closing what was only read tells nothing.
        let counts = *name != "close" || written(path);
        let last = (*count > 1).then(|| count - 1);
        let site = |after| Site { step, name, path: (*path).to_owned(), after };
        if counts { std::iter::once(0).chain(last).map(site).collect() } else { Vec::new() }
    };
    counts.iter().flat_map(of).collect()
}

fn work(
    supervisor: &Supervisor,
    place: &std::path::Path,
    kind: usize,
    queue: &Mutex<Vec<(usize, Run)>>,
    found: &Mutex<Found>,
) {
    let mut world = World::new(supervisor, place);
    loop {
        let run = {
            let mut queue = queue.lock().unwrap();
            let Some(at) = queue.iter().rposition(|(of, _)| *of == kind) else { return };
            queue.remove(at).1
        };
        let one = try_run(&mut world, &run);
        one.tell();
        let broken = one.slow.iter().any(|line| line.contains("not at all"));
        let mut found = found.lock().unwrap();
        found.runs += one.runs;
        found.missed.extend(one.missed);
        found.open.extend(one.open);
        found.retried.extend(one.retried);
        found.unserved.extend(one.unserved);
        found.silent.extend(one.silent);
        found.slow.extend(one.slow);
        found.slowest = found.slowest.max(one.slowest);
        if found.runs.is_multiple_of(100) {
            eprintln!("{} runs", found.runs);
        }
        drop(found);
        // Where marks are elsewhere they stay there.
        if broken || world.marks == Marks::Elsewhere {
            world = World::new(supervisor, place);
        }
    }
}

/// What pinning and leasing wrote must be durable once it was acknowledged.
const ACKNOWLEDGED: [(&str, &str); 4] = [
    ("pin", "root/.seedcache/pins.json"),
    ("unpin", "root/.seedcache/pins.json"),
    ("lease", "root/.seedcache/leases.json"),
    ("end lease", "root/.seedcache/leases.json"),
];

fn try_run(world: &mut World, run: &Run) -> Found {
    let Run { site, error, times } = run;
    let step = &STEPS[site.step];
    let mut found = Found { runs: 1, ..Found::default() };
    world.prepare(step);
    world.watch.forget();
    let errno = error.1.raw_os_error();
    if site.name == "setxattr" && error.1 == Errno::NOSPC {
        world.marks = Marks::Elsewhere;
    }
    world.watch.fail(Fault { name: site.name, path: site.path.clone(), after: site.after, times: *times, errno });
    let mut said = (step.ask)(world);
    let met = until(PATIENCE, || world.watch.hits() > 0 || (step.done)(world));
    // What comes behind everyone's back comes later.
    until(if met { BEHIND } else { Duration::ZERO }, || world.watch.hits() > 0);
    if *times > 1 && met {
        // What is held is met again; operators are told meanwhile.
        until(HELD, || false);
        if !(step.done)(world) && said.is_ok() && !world.shows_an_error() {
            found.silent.push(run.to_string());
        }
    }
    // A daemon that did not start serves nothing: it is started again below.
    let refused_start = said.is_err() && !world.node.runs();
    if !refused_start && world.state().is_none() {
        found.unserved.push(format!("{run}: the daemon does not answer"));
    }
    // What this very step damages is so until it is mended.
    if step.name != "repair" {
        found.unserved.extend(world.wrong(SETTLED).into_iter().map(|wrong| format!("{run}: {wrong}")));
    }
    acknowledged(step, &world.watch, said.is_ok(), &run.to_string(), &mut found);
    if world.watch.heal() == 0 {
        found.missed.push(run.to_string());
    }
    let healed = Instant::now();
    let back = until(PATIENCE, || {
        if step.again && said.is_err() {
            said = (step.ask)(world);
        }
        said.is_ok() && (step.done)(world)
    });
    if step.again && said.is_ok() {
        acknowledged(step, &world.watch, true, &run.to_string(), &mut found);
    }
    found.slowest = healed.elapsed();
    if !back {
        let (state, error) = (world.state(), said.err());
        found.slow.push(format!("{run}: not at all: {error:?} {state:?}"));
        found.slowest = Duration::ZERO;
    } else if found.slowest > LIMIT {
        found.slow.push(format!("{run}: {:.1} s", found.slowest.as_secs_f64()));
    }
    found.open.extend(world.wrong(LIMIT).into_iter().map(|wrong| format!("{run}: {wrong}")));
    let made = world.watch.calls();
    found.retried.extend(calls::retried(&made).into_iter().map(|line| format!("{run}: {line}")));
    if let Some(why) = calls::version_not_durable(&made, "root/.seedcache").filter(|_| back) {
        found.open.push(format!("{run}: {why}"));
    }
    found
}

fn acknowledged(step: &Step, watch: &Watch, was: bool, run: &str, found: &mut Found) {
    let Some((_, path)) = ACKNOWLEDGED.iter().find(|(name, _)| *name == step.name).filter(|_| was) else { return };
    if let Some(why) = calls::not_durable(&watch.calls(), path) {
        found.open.push(format!("{run}: acknowledged, but {why}"));
    }
}

/// Whether it comes about in that time.
fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
