//! What a transfer is told, and what it says is to be done.

use std::time::Duration;

use super::Head;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::acquire) enum Event {
    /// A response's head came.
    Head(Head),
    /// So many bytes of the body came. They are the part's only if the next step is [`Step::Take`].
    Chunk(u64),
    /// The body ended as it should.
    End,
    /// No connection, or a broken one.
    Failed,
    /// No answer in time, or a body that came too slowly.
    Slow,
    /// This address will not do, however often it is asked.
    Refused,
    /// The wait is over.
    Waited,
    /// The bytes are what they should be.
    Good,
    /// The bytes are not what they should be: a digest differs, or they don't unpack. Also in the instant in which their
    /// body ends, whatever the step after that is.
    Wrong,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::acquire) enum Step {
    /// Send a request; answer with [`Event::Head`], [`Event::Failed`], [`Event::Slow`] or [`Event::Refused`].
    Ask {
        /// Index of the address.
        location: usize,
        /// The rest only.
        range: Option<Range>,
    },
    /// Read the body to the part at `from`, 0 meaning that the part and the tree are emptied first; answer with
    /// [`Event::Chunk`]s and then [`Event::End`], [`Event::Failed`] or [`Event::Slow`].
    Receive {
        /// Where the body belongs.
        from: u64,
    },
    /// The chunk belongs to the part; go on reading.
    Take,
    /// Wait, then answer with [`Event::Waited`].
    Wait(Duration),
    /// All bytes are here: answer with [`Event::Good`] or [`Event::Wrong`].
    Judge,
    /// The bytes are good.
    Done,
    /// There is nothing left to try.
    GiveUp(GiveUp),
}

/// The rest of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::acquire) struct Range {
    /// First byte asked for.
    pub from: u64,
    /// For If-Range.
    pub if_range: Option<String>,
}

/// Why there is nothing left to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::acquire) enum GiveUp {
    /// No address gives the bytes.
    Unavailable {
        /// When one of them wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The object kept changing while it was read.
    Unstable,
    /// More bytes than are allowed.
    TooLarge,
    /// The last address gave wrong bytes.
    Wrong,
}
