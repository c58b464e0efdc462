//! The daemon's events as they come: server-sent events read into changes of states.
//!
//! What must hold: no event grows without bound; a stream that breaks off in the middle of one gives no half of it.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::connection::{ANSWER_LIMIT, ClientError};
use super::server::Server;
use crate::intent::ArtifactName;
use crate::reconcile::ArtifactState;

/// The daemon says something every 15 s: after so much silence it is gone.
const SILENCE: Duration = Duration::from_secs(45);

/// What the daemon tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// An artifact stands so.
    Artifact(Box<ArtifactState>),
    /// An artifact is no more.
    Removed(ArtifactName),
    /// Every artifact there is was told.
    Synced,
}

/// A stream of changes.
#[derive(Debug)]
pub(super) struct Events {
    server: Server,
    path: String,
    body: Incoming,
    reader: Reader,
}

#[derive(Deserialize)]
struct Removed {
    name: ArtifactName,
}

impl Events {
    /// Reads the body of an answer of `server` to `path`.
    pub(super) fn new(server: Server, path: String, body: Incoming) -> Self {
        Self { server, path, body, reader: Reader::default() }
    }

    /// The next change; `None` when the daemon ends the stream. What is dropped while it waits loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Change>, ClientError> {
        loop {
            while let Some(event) = self.reader.event() {
                if let Some(change) = self.change(&event)? {
                    return Ok(Some(change));
                }
            }
            let silent = |_| ClientError::Silent { server: self.server.clone(), limit: SILENCE };
            let Some(frame) = timeout(SILENCE, self.body.frame()).await.map_err(silent)? else { return Ok(None) };
            let frame = frame.map_err(|source| ClientError::Lost { server: self.server.clone(), source })?;
            if let Ok(bytes) = frame.into_data()
                && !self.reader.take(&bytes)
            {
                return Err(ClientError::TooLong { server: self.server.clone() });
            }
        }
    }

    /// What an event says; one of a kind not known yet says nothing.
    fn change(&self, event: &Event) -> Result<Option<Change>, ClientError> {
        Ok(match event.name.as_str() {
            "artifact" => Some(Change::Artifact(self.read(event)?)),
            "removed" => Some(Change::Removed(self.read::<Removed>(event)?.name)),
            "synced" => Some(Change::Synced),
            _ => None,
        })
    }

    fn read<T: DeserializeOwned>(&self, event: &Event) -> Result<T, ClientError> {
        serde_json::from_str(&event.data).map_err(|source| ClientError::Unreadable {
            server: self.server.clone(),
            path: self.path.clone(),
            source,
        })
    }
}

/// One event as it is written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

/// Finds events in bytes that come in pieces.
#[derive(Debug, Default)]
struct Reader {
    /// Not read yet; starts at the start of a line.
    bytes: Vec<u8>,
    /// So many of them hold no end of a line.
    searched: usize,
    event: Event,
}

impl Reader {
    /// Takes more bytes; false when an event grows over the limit.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        self.bytes.len() + self.event.data.len() <= ANSWER_LIMIT
    }

    /// The next whole event.
    fn event(&mut self) -> Option<Event> {
        let mut at = 0;
        let mut found = None;
        while found.is_none() {
            let Some(end) = self.bytes[at + self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len() - at;
                break;
            };
            let end = at + self.searched + end;
            self.searched = 0;
            let line = String::from_utf8_lossy(&self.bytes[at..end]).into_owned();
            at = end + 1;
            found = self.line(line.strip_suffix('\r').unwrap_or(&line));
        }
        self.bytes.drain(..at);
        found
    }

    /// Takes a line; an empty one ends the event.
    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            // Each line of data ends with a break, the last one's does not count.
            return event.data.pop().map(|_| event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "data" => {
                self.event.data.push_str(value);
                self.event.data.push('\n');
            }
            // A comment, an id, or what later versions say.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut reader = Reader::default();
        let mut events = Vec::new();
        for piece in pieces {
            assert!(reader.take(piece));
            while let Some(event) = reader.event() {
                events.push((event.name, event.data));
            }
        }
        events
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn events_are_found_among_the_rest() {
        let text = b"retry: 1000\n\n: keep-alive\n\nid: 1\nevent: artifact\ndata: {}\n\nevent: removed\r\ndata:a\r\ndata: b\r\n\r\nevent: cut\ndata: x\n";
        let expected = [event("artifact", "{}"), event("removed", "a\nb")];
        assert_eq!(read(&[text]), expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read(&bytes), expected);
        assert_eq!(read(&[b"event: nothing\n\nevent\ndata\n\n"]), [event("", "")]);
    }

    #[test]
    fn no_event_grows_without_bound() {
        let mut reader = Reader::default();
        let line = [b"data: ".as_slice(), &vec![b'x'; ANSWER_LIMIT / 2], b"\n"].concat();
        assert!(reader.take(&line));
        assert_eq!(reader.event(), None);
        assert!(!reader.take(&line));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "([a-z:\r\n ]|event: |data: ){0,60}", cuts in prop::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[bytes]));
        }
    }
}
