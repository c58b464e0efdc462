//! The link ladder as a pure decision: reflink, hard link, copy, each better one left for a reason that the answer
//! tells. A failure that no other way would mend (a full disk, a broken one) is never a reason to fall back.

use std::io;

use rustix::io::Errno;

use crate::fs::LinkMode;
use crate::intent::Link;

/// The mode in use, and why each better one was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    asked: Link,
    mode: LinkMode,
    settled: bool,
    no_reflink: Option<Why>,
    no_hard_link: Option<Why>,
}

/// Why a way of linking does not work here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// FICLONE is not known here.
    #[error("the file system has no reflinks")]
    NoReflinks,
    /// Hard links are not known here.
    #[error("the file system has no hard links")]
    NoHardLinks,
    /// Two file systems, or two mounts of one.
    #[error("target and store are on different file systems or mounts")]
    OtherFilesystem,
    /// One inode has no room for another name.
    #[error("the file has as many names as its file system allows")]
    TooManyLinks,
    /// The kernel says no to this user.
    #[error(
        "the kernel does not permit it (fs.protected_hardlinks, an immutable file, or a file system without links)"
    )]
    NotPermitted,
    /// Others link, unlink or rename it all the time: its bytes are right as far as they were read, which a copy shows.
    #[error("others give it names and take them away all the time")]
    Unsettled,
}

/// What to do after a file could not be linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This mode from now on.
    Try(Rung),
    /// Copy this file only; the others stay as they are.
    CopyOne(Why),
    /// The mode was demanded and does not work here.
    Refuse(Why),
    /// A real failure: no other mode would do better.
    Fail,
}

impl Rung {
    /// Where a tree starts.
    pub fn first(asked: Link) -> Self {
        let mode = match asked {
            Link::Auto | Link::Reflink => LinkMode::Reflink,
            Link::Hardlink => LinkMode::Hardlink,
            Link::Copy => LinkMode::Copy,
        };
        Self { asked, mode, settled: false, no_reflink: None, no_hard_link: None }
    }

    /// Where the mending of a tree goes on that was made in `mode`.
    pub fn resumed(asked: Link, mode: LinkMode) -> Self {
        Self { asked, mode, settled: true, no_reflink: None, no_hard_link: None }
    }

    /// The mode in use.
    pub fn mode(&self) -> LinkMode {
        self.mode
    }

    /// Whether a file may be copied for itself.
    pub(super) fn may_copy(&self) -> bool {
        self.asked == Link::Auto || self.mode == LinkMode::Copy
    }

    /// Whether [`Rung::settle`] was told already.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// The mode has worked for one file: it is that of the tree.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// Why each better mode was left, in words; `None` when none was.
    pub fn reason(&self) -> Option<String> {
        let left = [(LinkMode::Reflink, self.no_reflink), (LinkMode::Hardlink, self.no_hard_link)];
        let words: Vec<String> =
            left.iter().filter_map(|(mode, why)| why.map(|why| format!("no {}: {why}", mode.words()))).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// What to try after `failure` of the rung's mode.
pub fn next_rung(rung: &Rung, failure: &io::Error) -> Next {
    let Some(why) = why(rung.mode, failure) else { return Next::Fail };
    if rung.asked != Link::Auto {
        return Next::Refuse(why);
    }
    if rung.settled || why == Why::TooManyLinks {
        return Next::CopyOne(why);
    }
    match rung.mode {
        LinkMode::Reflink => Next::Try(Rung { mode: LinkMode::Hardlink, no_reflink: Some(why), ..*rung }),
        LinkMode::Hardlink => Next::Try(Rung { mode: LinkMode::Copy, no_hard_link: Some(why), ..*rung }),
        LinkMode::Copy => Next::Fail,
    }
}

fn why(mode: LinkMode, failure: &io::Error) -> Option<Why> {
    let errno = Errno::from_io_error(failure)?;
    match (mode, errno) {
        (LinkMode::Copy, _) => None,
        (_, Errno::XDEV) => Some(Why::OtherFilesystem),
        (_, Errno::PERM) => Some(Why::NotPermitted),
        (LinkMode::Reflink, Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => Some(Why::NoReflinks),
        (LinkMode::Hardlink, Errno::OPNOTSUPP | Errno::NOSYS) => Some(Why::NoHardLinks),
        (LinkMode::Hardlink, Errno::MLINK) => Some(Why::TooManyLinks),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failure(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn auto_goes_down_and_says_why() {
        let first = Rung::first(Link::Auto);
        assert_eq!((first.mode(), first.reason()), (LinkMode::Reflink, None));
        let Next::Try(second) = next_rung(&first, &failure(Errno::OPNOTSUPP)) else { panic!("no next rung") };
        assert_eq!(second.mode(), LinkMode::Hardlink);
        assert_eq!(second.reason().as_deref(), Some("no reflink: the file system has no reflinks"));
        let Next::Try(third) = next_rung(&second, &failure(Errno::XDEV)) else { panic!("no next rung") };
        assert_eq!(third.mode(), LinkMode::Copy);
        assert!(third.reason().is_some_and(|r| r.contains("no reflink: ") && r.contains("no hard link: target and")));
        assert_eq!(next_rung(&third, &failure(Errno::XDEV)), Next::Fail);
    }

    #[test]
    fn one_file_with_too_many_names_is_copied_alone() {
        let Next::Try(rung) = next_rung(&Rung::first(Link::Auto), &failure(Errno::XDEV)) else { panic!("no rung") };
        assert_eq!(next_rung(&rung, &failure(Errno::MLINK)), Next::CopyOne(Why::TooManyLinks));
        let demanded = Rung::first(Link::Hardlink);
        assert_eq!(next_rung(&demanded, &failure(Errno::MLINK)), Next::Refuse(Why::TooManyLinks));
    }

    #[test]
    fn the_first_file_decides() {
        let mut rung = Rung::first(Link::Auto);
        rung.settle();
        assert_eq!(next_rung(&rung, &failure(Errno::INVAL)), Next::CopyOne(Why::NoReflinks));
    }

    fn links() -> impl Strategy<Value = Link> {
        prop_oneof![Just(Link::Auto), Just(Link::Reflink), Just(Link::Hardlink), Just(Link::Copy)]
    }

    proptest! {
        #[test]
        fn it_only_goes_down_and_ends(asked in links(), errnos in proptest::collection::vec(1i32..134, 1..12)) {
            let mut rung = Rung::first(asked);
            for errno in errnos {
                let error = io::Error::from_raw_os_error(errno);
                match next_rung(&rung, &error) {
                    Next::Try(next) => {
                        prop_assert_eq!(asked, Link::Auto);
                        prop_assert!(next.mode() > rung.mode());
                        prop_assert!(next.reason().is_some());
                        rung = next;
                    }
                    Next::CopyOne(_) => prop_assert!(asked == Link::Auto && rung.mode() != LinkMode::Copy),
                    Next::Refuse(_) => prop_assert!(matches!(asked, Link::Reflink | Link::Hardlink)),
                    Next::Fail => {}
                }
            }
        }

        #[test]
        fn real_failures_never_fall_back(asked in links()) {
            for errno in [Errno::NOSPC, Errno::IO, Errno::ACCESS, Errno::DQUOT, Errno::ROFS, Errno::NOENT, Errno::MFILE] {
                prop_assert_eq!(next_rung(&Rung::first(asked), &failure(errno)), Next::Fail);
            }
            prop_assert_eq!(next_rung(&Rung::first(asked), &io::Error::other("no errno")), Next::Fail);
        }
    }
}
