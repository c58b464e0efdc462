//! What stands at a target, and what is to be done about it: a pure decision.

use super::SeedError;
use super::mark::{Mark, Wanted};
use super::owned::Names;
use crate::fs::{self, Dir, Kind, LinkMode, RelPath, Stat};
use crate::intent::{Link, Swap, VersionName};

/// What stands at a target.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing.
    Nothing,
    /// A directory that seedcache made.
    Ours(Box<Seed>),
    /// A directory that seedcache works in, which holds no version whole, or none that is known.
    Torn(Form),
    /// Something else.
    Foreign(Stat, Empty),
}

/// A directory that seedcache made.
#[derive(Debug)]
pub(crate) struct Seed {
    /// The top of its tree.
    pub(crate) dir: Dir,
    /// The target itself, which is the same but for [`Swap::Symlink`].
    pub(super) target: Dir,
    pub(super) form: Form,
    pub(crate) mark: Mark,
}

impl Seed {
    /// What in it is ours, where others may have their own beside ([`Swap::InPlace`]). Anybody may have written the list: it is
    /// read only where something is done about it, and only what is `wanted` of it is kept.
    pub(crate) fn owned(&self, wanted: impl Fn(&RelPath, Kind) -> bool) -> Result<Option<Names>, SeedError> {
        match self.form.swap {
            Swap::InPlace => Ok(Some(Names::wanted(&self.target, wanted)?.unwrap_or_default())),
            Swap::Exchange | Swap::Symlink => Ok(None),
        }
    }

    /// Whether its tree's top belongs to this process's user, or that user is root: others' are not filled for it.
    pub(crate) fn is_own(&self) -> fs::Result<bool> {
        is_own(&self.dir)
    }
}

/// Whether a directory belongs to this process's user, or that user is root.
pub(crate) fn is_own(dir: &Dir) -> fs::Result<bool> {
    let user = rustix::process::geteuid();
    Ok(user.is_root() || dir.stat_self()?.uid == user.as_raw())
}

/// How a target came to be as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// Of the target itself.
    pub(super) stat: Stat,
    /// The swap that its tree was last put there by.
    pub(super) swap: Swap,
}

/// Whether a directory that is not ours holds anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Empty {
    Yes,
    No,
}

/// What to do about it.
#[derive(Debug)]
pub(crate) enum Step {
    /// Hold it against the manifest and mend it.
    Mend(Box<Seed>),
    /// Make the tree out of sight, and have it take its place.
    Swap(Switch),
    /// Leave it: it is this.
    Refuse(&'static str),
}

/// How a new tree takes the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Switch {
    pub(super) swap: Swap,
    pub(super) onto: Onto,
    pub(super) version: VersionName,
    /// What is in the way is replaced, whosever it is.
    pub(super) force: bool,
    reason: Option<&'static str>,
}

impl Switch {
    /// Why it goes another way than usual; part of the answer's reason.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        self.reason
    }
}

/// What a new tree takes the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    /// Nothing.
    Nothing,
    /// The whole of what was seen; with the swap that it was put there by, where it is ours.
    Whole(Stat, Option<Swap>),
    /// What is in the directory, which stays; with the swap that it was put there by, where it is ours.
    Within(Option<Swap>),
}

/// What is asked of a target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// What it is to hold.
    pub(crate) wanted: Wanted<'a>,
    pub(crate) link: Link,
    /// `None`: as is best there.
    pub(crate) swap: Option<Swap>,
    pub(crate) force: bool,
    /// The store's device, where that can be seen from here: hard links to another are none.
    pub(crate) device: Option<u64>,
    /// Something is mounted on the target itself.
    pub(crate) mount_point: bool,
}

const MOUNTED: &str = "swapped in place: the target is a mount point, which cannot be exchanged";

/// What to do about `standing` so that the target holds what is wanted.
pub(crate) fn decide(standing: Standing, asked: &Asked) -> Step {
    let form = match &standing {
        Standing::Ours(seed) => Some(seed.form),
        Standing::Torn(form) => Some(*form),
        Standing::Nothing | Standing::Foreign(..) => None,
    };
    let (swap, reason) = choose(asked, form);
    let version = asked.wanted.version.clone();
    let switch = |onto| Step::Swap(Switch { swap, onto, version, force: asked.force, reason });
    match standing {
        Standing::Nothing => switch(Onto::Nothing),
        Standing::Foreign(stat, empty) if fits(swap, &stat, empty, asked.force) => switch(Onto::Within(None)),
        Standing::Foreign(stat, _) if asked.force => switch(Onto::Whole(stat, None)),
        Standing::Foreign(stat, empty) => Step::Refuse(words(stat.kind, empty)),
        Standing::Ours(seed) if seed.form.swap == swap && holds(&seed, asked) => Step::Mend(seed),
        Standing::Ours(seed) => switch(onto(swap, seed.form)),
        Standing::Torn(form) => switch(onto(swap, form)),
    }
}

/// The swap asked for; else the one that the target knows; else an exchange, where that can be.
fn choose(asked: &Asked, form: Option<Form>) -> (Swap, Option<&'static str>) {
    match (asked.swap, form.map(|form| form.swap)) {
        (Some(swap), _) => (swap, None),
        (None, Some(Swap::Symlink)) => (Swap::Symlink, None),
        (None, _) if asked.mount_point => (Swap::InPlace, Some(MOUNTED)),
        (None, swap) => (swap.unwrap_or_default(), None),
    }
}

/// Whether a swap works inside what is not ours. What would be replaced there is looked at later, name by name.
fn fits(swap: Swap, stat: &Stat, empty: Empty, force: bool) -> bool {
    stat.kind == Kind::Dir
        && match swap {
            Swap::Exchange => false,
            Swap::Symlink => empty == Empty::Yes || force,
            Swap::InPlace => true,
        }
}

fn onto(swap: Swap, form: Form) -> Onto {
    match swap {
        Swap::Exchange => Onto::Whole(form.stat, Some(form.swap)),
        Swap::Symlink | Swap::InPlace => Onto::Within(Some(form.swap)),
    }
}

/// Whether a seed is what is asked for.
fn holds(seed: &Seed, asked: &Asked) -> bool {
    let linkable =
        seed.mark.mode != LinkMode::Hardlink || asked.device.is_none_or(|device| seed.form.stat.stamp.dev == device);
    seed.mark.holds(asked.wanted) && satisfies(seed.mark.mode, asked.link) && linkable
}

/// Whether a tree made by `mode` is what `asked` wants.
pub(super) fn satisfies(mode: LinkMode, asked: Link) -> bool {
    match asked {
        Link::Auto => true,
        Link::Reflink => mode == LinkMode::Reflink,
        Link::Hardlink => mode == LinkMode::Hardlink,
        Link::Copy => mode == LinkMode::Copy,
    }
}

fn words(kind: Kind, empty: Empty) -> &'static str {
    match (kind, empty) {
        (Kind::Dir, Empty::Yes) => "an empty directory",
        (Kind::Dir, Empty::No) => "a directory",
        (kind, _) => kind_words(kind),
    }
}

/// As people say it.
pub(super) fn kind_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Dir => "a directory",
        Kind::File => "a file",
        Kind::Symlink => "a symlink",
        Kind::Other => "a device, fifo or socket",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::intent::Digest;
    use Swap::{Exchange, InPlace, Symlink};

    fn stat(kind: Kind) -> Stat {
        let dir = tempfile::tempdir().unwrap();
        Stat { kind, ..Dir::open(dir.path()).unwrap().stat_self().unwrap() }
    }

    /// How a target is taken: by which swap, and onto what; or why it is left.
    fn taken(
        standing: Standing,
        swap: Option<Swap>,
        force: bool,
        mount_point: bool,
    ) -> Result<(Swap, Onto), &'static str> {
        let (artifact, version, tree_digest) = ("a".parse().unwrap(), "v1".parse().unwrap(), Digest::sha256(b""));
        let wanted = Wanted { artifact: &artifact, version: &version, tree_digest: &tree_digest };
        let asked = Asked { wanted, link: Link::Auto, swap, force, device: None, mount_point };
        match decide(standing, &asked) {
            Step::Swap(switch) => {
                assert_eq!(switch.reason().is_some(), swap.is_none() && mount_point && switch.swap == InPlace);
                Ok((switch.swap, switch.onto))
            }
            Step::Refuse(what) => Err(what),
            Step::Mend(_) => unreachable!("nothing here holds a version"),
        }
    }

    #[test]
    fn what_nobody_asked_for_is_what_is_best_there() {
        let dir = stat(Kind::Dir);
        assert_eq!(taken(Standing::Nothing, None, false, false), Ok((Exchange, Onto::Nothing)));
        assert_eq!(taken(Standing::Nothing, Some(Symlink), false, false), Ok((Symlink, Onto::Nothing)));
        let foreign = |empty| Standing::Foreign(dir, empty);
        assert_eq!(taken(foreign(Empty::Yes), None, false, true), Ok((InPlace, Onto::Within(None))));
        assert_eq!(taken(foreign(Empty::No), None, false, true), Ok((InPlace, Onto::Within(None))));
        assert_eq!(taken(foreign(Empty::Yes), None, false, false), Err("an empty directory"));
    }

    #[test]
    fn what_is_not_ours_is_left_where_the_swap_would_take_it_away() {
        let dir = stat(Kind::Dir);
        let ask = |empty, swap, force| taken(Standing::Foreign(dir, empty), Some(swap), force, false);
        assert_eq!(ask(Empty::No, Exchange, false), Err("a directory"));
        assert_eq!(ask(Empty::No, Exchange, true), Ok((Exchange, Onto::Whole(dir, None))));
        assert_eq!(ask(Empty::Yes, Symlink, false), Ok((Symlink, Onto::Within(None))));
        assert_eq!(ask(Empty::No, Symlink, false), Err("a directory"));
        assert_eq!(ask(Empty::No, Symlink, true), Ok((Symlink, Onto::Within(None))));
        assert_eq!(ask(Empty::No, InPlace, false), Ok((InPlace, Onto::Within(None))));
        let file = stat(Kind::File);
        for swap in [Exchange, Symlink, InPlace] {
            let ask = |force| taken(Standing::Foreign(file, Empty::No), Some(swap), force, false);
            assert_eq!((ask(false), ask(true)), (Err("a file"), Ok((swap, Onto::Whole(file, None)))));
        }
    }

    #[test]
    fn a_target_keeps_its_swap_until_another_is_asked_for() {
        let stat = stat(Kind::Dir);
        for was in [Exchange, Symlink, InPlace] {
            let ask = |swap, mounted| taken(Standing::Torn(Form { stat, swap: was }), swap, false, mounted).unwrap();
            let inside = |swap| (swap, Onto::Within(Some(was)));
            assert_eq!(ask(Some(Exchange), false), (Exchange, Onto::Whole(stat, Some(was))));
            assert_eq!((ask(Some(Symlink), false), ask(Some(InPlace), true)), (inside(Symlink), inside(InPlace)));
            let kept = if was == Exchange { (Exchange, Onto::Whole(stat, Some(was))) } else { inside(was) };
            assert_eq!(ask(None, false), kept);
            assert_eq!(ask(None, true), inside(if was == Exchange { InPlace } else { was }));
        }
    }
}
