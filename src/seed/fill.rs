//! What to do about a directory that a peer holds open and wants filled: a pure decision.
//!
//! The peer proves its right to the directory by holding it open through a mount that may be written, and by owning it.
//! It may go on changing what is in it at any time, so that nothing found there by name is believed later on.

use super::Peer;
use super::standing::{kind_words, satisfies};
use crate::fs::{Kind, LinkMode, Stat};
use crate::intent::Link;
use crate::store::Entry;

/// All that is known of the directory and of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) kind: Kind,
    /// Its mount, as the peer opened it.
    pub(super) read_only: bool,
    /// Who owns it.
    pub(super) owner: u32,
    pub(super) peer: u32,
    /// The peer could do all that the daemon does.
    pub(super) trusted: bool,
    pub(super) holds: Holds,
    pub(super) reached: Reached,
    /// It is, holds or lies in the store.
    pub(super) in_store: bool,
    /// What is made here can be made the peer's own.
    pub(super) gives: bool,
    /// Why hard links to the store's own files are not for this peer.
    pub(super) barred: Option<Receive>,
    /// There is no room for another record of this peer's.
    pub(super) full: bool,
    pub(super) asked: Link,
}

/// What is in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nothing.
    Nothing,
    /// It bears the mark of the very tree that is asked for.
    TheTree(LinkMode),
    /// Anything else.
    Other,
}

/// How the daemon gets to the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// Through the store's own mount: files can be linked there.
    ByHandle,
    /// Only as the peer passed it: what needs one mount does not work.
    AsPassed(Receive),
}

/// Why the client is to receive the tree and write it by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Receive {
    /// `link: copy`.
    #[error("a copy was asked for")]
    Asked,
    /// Handles cannot be opened.
    #[error("the daemon lacks CAP_DAC_READ_SEARCH, without which it cannot link across mounts")]
    NoCapability,
    /// There are no handles.
    #[error("the file system gives no file handles, without which the daemon cannot link across mounts")]
    NoHandles,
    /// Nothing can be linked.
    #[error("target and store are on different file systems")]
    OtherFileSystem,
    /// What was made through the store's mount would have owners that the peer's mount shows as others, or not at all.
    #[error(
        "the target is mounted so that its files show other owners than they have, as for a pod with users of its own"
    )]
    Mapped,
    /// A hard link would hand on the rights of another.
    #[error("the version has setuid or setgid files, which are linked for root only")]
    Special,
    /// A hard link keeps owner and mode.
    #[error("the version has files that only their owner or group may read, which would stay so as hard links")]
    Unreadable,
    /// Who owns an inode can give itself the right to write to it, under whatever name.
    #[error("files of the version belong to the user who asks, who could write to those of the store through a link")]
    PeersOwn,
    /// What is made could not be made the peer's own.
    #[error(
        "the daemon may not give files to others; it takes CAP_CHOWN and CAP_FOWNER, in a user namespace that knows all"
    )]
    NoOwners,
    /// What is linked holds its version, which takes a record.
    #[error("as many linked directories are on record as may be, for this user or for all")]
    Full,
    /// As project quotas do.
    #[error("the kernel lets nothing be moved from the store's part of the file system to the target's")]
    Apart,
}

/// Whether a directory's owner, as the mount shows it that it was passed through, is another than the store's mount shows. What is
/// linked there would seem to be the peer's own, and could be written to.
pub(super) fn are_owners_mapped(passed: &Stat, reopened: &Stat) -> bool {
    (passed.uid, passed.gid) != (reopened.uid, reopened.gid)
}

/// Why hard links to files of these rights are not for a peer: they lend it those of another, it could
/// give itself the right to write to them, or it cannot read them.
/// What the peer may as a member of further groups is not known here.
pub(super) fn barred<'a>(files: impl Iterator<Item = &'a Entry>, peer: Peer) -> Option<Receive> {
    if peer.uid == 0 {
        return None;
    }
    let mut barred = None;
    for file in files {
        if file.mode & 0o6000 != 0 {
            return Some(Receive::Special);
        }
        let readable = if file.gid == peer.gid { 0o040 } else { 0o004 };
        if file.uid == peer.uid {
            barred = Some(Receive::PeersOwn);
        } else if file.mode & readable == 0 {
            barred = barred.or(Some(Receive::Unreadable));
        }
    }
    barred
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Make the tree out of sight and move it in.
    Fill,
    /// The same by reflink alone: should that not work, this is why nothing else may.
    FillByReflink(Receive),
    /// Make it in place, by reflink alone: should that not work, this is why nothing else would.
    FillInPlace(Receive),
    /// Hold it against the manifest.
    Mend,
    /// The same where only the directory itself can be reached.
    MendInPlace,
    /// The client does it.
    Receive(Receive),
    /// Leave it.
    Refuse(Refusal),
}

/// Why a directory is not filled. It is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only directories can be.
    #[error("the descriptor is that of {0}, and only a directory can be filled; pass one")]
    NoDirectory(&'static str),
    /// The peer could not write there.
    #[error("the directory was opened through a mount that is read-only; mount it for writing")]
    ReadOnly,
    /// The peer may not give it away.
    #[error("the directory belongs to uid {owner}, and uid {peer} may have only directories of its own filled")]
    NotOwner {
        /// Who owns it.
        owner: u32,
        /// Who asks.
        peer: u32,
    },
    /// Only the daemon writes there.
    #[error("the directory is or holds the store, or lies in it, and only seedcache writes there; pass another")]
    InStore,
    /// What is there is not the daemon's to judge.
    #[error("the directory is not empty and does not hold this version; pass an empty one")]
    Occupied,
    /// What is there came another way.
    #[error("the directory holds this version by {}, and that is not what was asked for; pass an empty one", .0.words())]
    OtherMode(LinkMode),
    /// The mode asked for does not work here.
    #[error("a {} was demanded but does not work here: {why}; ask for `auto`, which falls back and says why", mode.words())]
    NoLink {
        /// The mode.
        mode: LinkMode,
        /// Why it does not work.
        why: Receive,
    },
}

/// What to do, the first reason against it first.
pub(super) fn decide(facts: &Facts) -> Step {
    if facts.kind != Kind::Dir {
        return Step::Refuse(Refusal::NoDirectory(kind_words(facts.kind)));
    }
    if facts.read_only {
        return Step::Refuse(Refusal::ReadOnly);
    }
    let (owner, peer) = (facts.owner, facts.peer);
    if owner != peer && peer != 0 {
        return Step::Refuse(Refusal::NotOwner { owner, peer });
    }
    if facts.in_store {
        return Step::Refuse(Refusal::InStore);
    }
    match (facts.holds, facts.reached) {
        (Holds::Other, _) => Step::Refuse(Refusal::Occupied),
        (Holds::TheTree(mode), _) if !satisfies(mode, facts.asked) => Step::Refuse(Refusal::OtherMode(mode)),
        _ if !facts.gives => Step::Receive(if facts.asked == Link::Copy { Receive::Asked } else { Receive::NoOwners }),
        (Holds::TheTree(LinkMode::Hardlink), Reached::ByHandle) => withheld(facts).map_or(Step::Mend, Step::Receive),
        (Holds::TheTree(_), Reached::ByHandle) => Step::Mend,
        (Holds::TheTree(LinkMode::Reflink), Reached::AsPassed(_)) if facts.trusted => Step::MendInPlace,
        (Holds::TheTree(_), Reached::AsPassed(why)) => Step::Receive(why),
        (Holds::Nothing, reached) => fill(facts, reached),
    }
}

/// Why the store's own files may not be linked for the peer. A clone belongs to the peer, and lends nobody any rights.
fn withheld(facts: &Facts) -> Option<Receive> {
    facts.barred.or(facts.full.then_some(Receive::Full))
}

fn fill(facts: &Facts, reached: Reached) -> Step {
    let mode = match facts.asked {
        Link::Copy => return Step::Receive(Receive::Asked),
        Link::Hardlink => Some(LinkMode::Hardlink),
        Link::Reflink => Some(LinkMode::Reflink),
        Link::Auto => None,
    };
    let instead = |why| mode.map_or(Step::Receive(why), |mode| Step::Refuse(Refusal::NoLink { mode, why }));
    match reached {
        Reached::ByHandle => match (withheld(facts), mode) {
            (Some(why), None) => Step::FillByReflink(why),
            (Some(why), Some(LinkMode::Hardlink)) => instead(why),
            _ => Step::Fill,
        },
        // Made in place, under the peer's eyes and hands: for those only who could do all of it themselves.
        Reached::AsPassed(why) if facts.trusted && mode != Some(LinkMode::Hardlink) => Step::FillInPlace(why),
        Reached::AsPassed(why) => instead(why),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use Holds::{Nothing, Other, TheTree};
    use LinkMode::{Copy, Hardlink, Reflink};

    const ROOT: Facts = Facts {
        kind: Kind::Dir,
        read_only: false,
        owner: 0,
        peer: 0,
        trusted: true,
        holds: Nothing,
        reached: Reached::ByHandle,
        in_store: false,
        gives: true,
        barred: None,
        full: false,
        asked: Link::Auto,
    };
    const POD: Facts = Facts { owner: 1000, peer: 1000, trusted: false, ..ROOT };
    const AWAY: Reached = Reached::AsPassed(Receive::OtherFileSystem);

    fn no_link(mode: LinkMode, why: Receive) -> Step {
        Step::Refuse(Refusal::NoLink { mode, why })
    }

    #[test]
    fn an_empty_directory_of_the_peers_own_is_filled() {
        assert_eq!(decide(&ROOT), Step::Fill);
        assert_eq!(decide(&POD), Step::Fill);
        assert_eq!(decide(&Facts { owner: 1000, ..ROOT }), Step::Fill, "root may anywhere");
    }

    #[test]
    fn what_the_peer_has_no_right_to_is_refused() {
        let refused = |facts| match decide(&facts) {
            Step::Refuse(refusal) => refusal,
            step => panic!("{step:?}"),
        };
        assert_eq!(refused(Facts { kind: Kind::Other, ..POD }), Refusal::NoDirectory("a device, fifo or socket"));
        assert_eq!(refused(Facts { read_only: true, ..ROOT }), Refusal::ReadOnly);
        assert_eq!(refused(Facts { owner: 0, ..POD }), Refusal::NotOwner { owner: 0, peer: 1000 });
        // Also where the daemon is not root, and the peer is its own user.
        assert_eq!(refused(Facts { owner: 0, trusted: true, ..POD }), Refusal::NotOwner { owner: 0, peer: 1000 });
        assert_eq!(refused(Facts { in_store: true, ..ROOT }), Refusal::InStore);
        for reached in [Reached::ByHandle, AWAY] {
            assert_eq!(refused(Facts { holds: Other, reached, ..ROOT }), Refusal::Occupied);
        }
    }

    #[test]
    fn what_holds_the_tree_is_mended_where_it_can_be() {
        for mode in [Reflink, Hardlink, Copy] {
            assert_eq!(decide(&Facts { holds: TheTree(mode), ..POD }), Step::Mend);
        }
        let holds = |mode, facts| decide(&Facts { holds: TheTree(mode), reached: AWAY, ..facts });
        assert_eq!(holds(Reflink, ROOT), Step::MendInPlace);
        assert_eq!(holds(Copy, ROOT), Step::Receive(Receive::OtherFileSystem));
        assert_eq!(holds(Reflink, POD), Step::Receive(Receive::OtherFileSystem));
        let other = Facts { holds: TheTree(Hardlink), asked: Link::Copy, ..ROOT };
        assert_eq!(decide(&other), Step::Refuse(Refusal::OtherMode(Hardlink)));
    }

    #[test]
    fn without_a_handle_only_reflinks_may_work_and_only_the_trusted_get_them() {
        let away = |asked, facts| decide(&Facts { asked, reached: AWAY, ..facts });
        assert_eq!(away(Link::Auto, ROOT), Step::FillInPlace(Receive::OtherFileSystem));
        assert_eq!(away(Link::Reflink, ROOT), Step::FillInPlace(Receive::OtherFileSystem));
        assert_eq!(away(Link::Hardlink, ROOT), no_link(Hardlink, Receive::OtherFileSystem));
        assert_eq!(away(Link::Auto, POD), Step::Receive(Receive::OtherFileSystem));
        assert_eq!(away(Link::Reflink, POD), no_link(Reflink, Receive::OtherFileSystem));
        for facts in [ROOT, POD] {
            assert_eq!(away(Link::Copy, facts), Step::Receive(Receive::Asked));
        }
    }

    #[test]
    fn what_is_not_for_the_peer_is_cloned_or_left_to_it() {
        for why in [Receive::Special, Receive::Unreadable, Receive::PeersOwn] {
            let barred = |asked, facts| decide(&Facts { asked, barred: Some(why), ..facts });
            assert_eq!(barred(Link::Auto, POD), Step::FillByReflink(why));
            assert_eq!(barred(Link::Hardlink, POD), no_link(Hardlink, why));
            assert_eq!(barred(Link::Reflink, POD), Step::Fill);
            assert_eq!(barred(Link::Copy, POD), Step::Receive(Receive::Asked));
            // A mark that the peer wrote itself changes nothing.
            let marked = |mode| barred(Link::Auto, Facts { holds: TheTree(mode), ..POD });
            assert_eq!(marked(Hardlink), Step::Receive(why));
            assert_eq!((marked(Reflink), marked(Copy)), (Step::Mend, Step::Mend));
        }
        let full = |facts| decide(&Facts { full: true, ..facts });
        assert_eq!(full(ROOT), Step::FillByReflink(Receive::Full));
        assert_eq!(full(Facts { holds: TheTree(Hardlink), ..ROOT }), Step::Receive(Receive::Full));
        assert_eq!(full(Facts { holds: TheTree(Copy), ..ROOT }), Step::Mend);
    }

    #[test]
    fn what_cannot_be_given_to_the_peer_is_left_to_it() {
        for (holds, reached) in [(Nothing, Reached::ByHandle), (TheTree(Hardlink), Reached::ByHandle), (Nothing, AWAY)]
        {
            let step = decide(&Facts { holds, reached, gives: false, ..POD });
            assert_eq!(step, Step::Receive(Receive::NoOwners), "{holds:?} {reached:?}");
        }
        let refused = Step::Refuse(Refusal::Occupied);
        assert_eq!(decide(&Facts { holds: Other, gives: false, ..POD }), refused);
    }

    #[test]
    fn rights_decide_for_whom_files_are_linked() {
        let file = |mode, uid, gid| Entry {
            path: "file".parse().unwrap(),
            kind: crate::store::EntryType::File,
            mode,
            uid,
            gid,
            mtime: jiff::Timestamp::UNIX_EPOCH,
            size: 0,
            sha256: None,
            target: None,
        };
        let pod = Peer { uid: 1000, gid: 100 };
        for (mode, uid, gid, expected) in [
            (0o644, 0, 0, None),
            (0o400, 0, 0, Some(Receive::Unreadable)),
            (0o440, 0, 0, Some(Receive::Unreadable)),
            (0o440, 0, 100, None),
            (0o404, 0, 100, Some(Receive::Unreadable)),
            (0o400, 1000, 0, Some(Receive::PeersOwn)),
            (0o044, 1000, 100, Some(Receive::PeersOwn)),
            (0o4755, 0, 0, Some(Receive::Special)),
            (0o2755, 1000, 100, Some(Receive::Special)),
        ] {
            let files = [file(0o644, 0, 0), file(mode, uid, gid), file(0o644, 0, 0)];
            assert_eq!(barred(files.iter(), pod), expected, "{mode:o} {uid}:{gid}");
            assert_eq!(barred(files.iter(), Peer { uid: 0, gid: 0 }), None, "root may all");
        }
    }
}
