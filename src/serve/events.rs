//! `GET /v1/events`: every artifact's state as a server-sent event, then each change of one.
//!
//! What must hold: nothing is queued for a watcher beyond one look's events, so a slow one skips states and costs no
//! memory; the stream ends with the daemon, and never by itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ask::EventsQuery;
use super::feed::{Event, Feed, PACE, is_moving};
use super::problem::{Kind, Problem};
use super::routes::App;
use super::view::View;
use crate::intent::ArtifactName;
use crate::reconcile::{ArtifactState, Reconciler};

/// After so much silence a comment says that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The least time between two looks: a storm of changes is told as its outcome.
const BREATH: Duration = Duration::from_millis(50);
/// How soon a watcher shall come back when the stream breaks.
const HELLO: &[u8] = b"retry: 1000\n\n";

/// Streams states and their changes: `artifact` with a state, `removed` with a name, and once, when every artifact was
/// told for the first time, `synced` with their number.
pub(super) async fn events(
    State(app): State<App>,
    Extension(view): Extension<View>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    if !accepts_events(&headers) {
        let next = "ask with `Accept: text/event-stream`, or GET /v1/artifacts for the states as JSON";
        return Err(Problem::new(Kind::NotAcceptable, "this address gives text/event-stream only", next));
    }
    if let Some(name) = &query.artifact {
        app.state_of(name)?;
    }
    let watcher = Watcher::new(app.reconciler, query.artifact, view);
    let body = Body::from_stream(stream::unfold(watcher, async |mut watcher| {
        let bytes = watcher.next().await?;
        Some((Ok::<_, Infallible>(bytes), watcher))
    }));
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

/// Whether the caller takes what is given here.
fn accepts_events(headers: &HeaderMap) -> bool {
    let mut ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    let fits = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok());
        matches!(media.as_str(), "text/event-stream" | "text/*" | "*/*") && weight != Some(0.0)
    };
    !headers.contains_key(ACCEPT) || ranges.any(fits)
}

/// One caller's view.
struct Watcher {
    reconciler: Reconciler,
    only: Option<ArtifactName>,
    view: View,
    changes: watch::Receiver<u64>,
    stopping: CancellationToken,
    feed: Feed,
    /// Of the last look, not yet taken.
    ready: VecDeque<Bytes>,
    last_id: u64,
    started: Instant,
    last_look: Option<Instant>,
    last_word: Instant,
    /// Something is being done, whose figures move without a sign.
    moving: bool,
}

impl Watcher {
    fn new(reconciler: Reconciler, only: Option<ArtifactName>, view: View) -> Self {
        let (changes, stopping, now) = (reconciler.changes(), reconciler.stopping(), Instant::now());
        Self {
            reconciler,
            only,
            view,
            changes,
            stopping,
            feed: Feed::default(),
            ready: VecDeque::from([Bytes::from_static(HELLO)]),
            last_id: 0,
            started: now,
            last_look: None,
            last_word: now,
            moving: false,
        }
    }

    /// What is sent next; `None` when the daemon stops.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.stopping.is_cancelled() {
                return None;
            }
            if let Some(bytes) = self.ready.pop_front() {
                self.last_word = Instant::now();
                return Some(bytes);
            }
            if let Some(last) = self.last_look {
                self.wait(last).await?;
            }
            self.look();
            if self.ready.is_empty() && self.last_word.elapsed() >= KEEP_ALIVE {
                self.ready.push_back(Bytes::from_static(b": keep-alive\n\n"));
            }
        }
    }

    /// Until something may have changed, or it is time for a sign of life.
    async fn wait(&mut self, last: Instant) -> Option<()> {
        let silent = self.last_word + KEEP_ALIVE;
        let due = if self.moving { silent.min(last + PACE) } else { silent };
        let changed = async {
            sleep_until(last + BREATH).await;
            self.changes.changed().await
        };
        tokio::select! {
            () = self.stopping.cancelled() => None,
            () = sleep_until(due.max(last + BREATH)) => Some(()),
            changed = changed => changed.ok(),
        }
    }

    fn look(&mut self) {
        self.changes.borrow_and_update();
        let states: Vec<ArtifactState> = match &self.only {
            Some(name) => self.reconciler.state(name).into_iter().collect(),
            None => self.reconciler.states(),
        };
        let states = self.view.states(states);
        self.moving = states.iter().any(is_moving);
        let (now, artifacts) = (Instant::now(), states.len());
        for event in self.feed.look(states, now - self.started) {
            match event {
                Event::Artifact(state) => self.tell("artifact", &state),
                Event::Removed(name) => self.tell("removed", &Name { name: &name }),
            }
        }
        if self.last_look.replace(now).is_none() {
            self.tell("synced", &Synced { artifacts });
        }
    }

    fn tell(&mut self, event: &str, data: &impl Serialize) {
        self.last_id += 1;
        // No line breaks in it: the data is one line.
        let json = serde_json::to_string(data)
            .unwrap_or_else(|e| unreachable!("plain fields with text keys always serialise: {e}"));
        self.ready.push_back(format!("id: {}\nevent: {event}\ndata: {json}\n\n", self.last_id).into());
    }
}

#[derive(Serialize)]
struct Name<'a> {
    name: &'a ArtifactName,
}

#[derive(Serialize)]
struct Synced {
    artifacts: usize,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_stream_is_for_those_who_take_it() {
        let accepts =
            |values: &[&str]| accepts_events(&values.iter().map(|value| (ACCEPT, value.parse().unwrap())).collect());
        for taken in [
            &[][..],
            &["*/*"],
            &["text/*;q=0.5"],
            &["application/json, Text/Event-Stream"],
            &["application/json", "text/event-stream; charset=utf-8"],
        ] {
            assert!(accepts(taken), "{taken:?}");
        }
        for refused in [&["application/json"][..], &["text/html"], &["text/event-stream;q=0"], &[""]] {
            assert!(!accepts(refused), "{refused:?}");
        }
    }
}
