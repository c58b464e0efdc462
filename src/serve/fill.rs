//! `POST …/versions/{version}/fill`: a directory that the caller holds open, and passes over the Unix socket, is filled.

use axum::extract::{Request, State};
use axum::routing::post;
use axum::{Extension, Json, Router};
use schemars::JsonSchema;
use serde::Deserialize;

use super::address::Addressed;
use super::ask::json;
use super::caller::Peer;
use super::descriptor::Descriptor;
use super::problem::{Kind, Problem};
use super::routes::App;
use crate::intent::{Link, error_chain};
use crate::reconcile::{FillAsk, FillAskError, LeaseAskError};
use crate::seed::{self, FillError, FillRequest, Filling, Receive, Refusal, Seeded};

/// Bytes of what a caller calls its directory: no path is longer.
const TARGET: usize = 4096;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/artifacts/{name}/versions/{version}/fill", post(fill))
}

/// The body of `POST …/fill`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FillBody {
    #[serde(default)]
    link: Link,
    /// Where the caller has it: for display only.
    target: String,
}

async fn fill(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    addressed: Addressed,
    passed: Option<Extension<Descriptor>>,
    request: Request,
) -> Result<Json<Seeded>, Problem> {
    let body: FillBody = json(request).await?;
    let (Peer::Unix { uid, gid, .. }, Some(Extension(passed))) = (peer, passed) else {
        let detail = "no descriptor of a directory came with the request";
        let next = "ask over the Unix socket, the directory's descriptor attached to the request's first bytes";
        return Err(Problem::new(Kind::Malformed, detail, next));
    };
    if body.target.len() > TARGET {
        let detail = format!("the target has more than {TARGET} bytes");
        return Err(Problem::new(Kind::Malformed, detail, "give the path of the directory"));
    }
    let version = match addressed.version {
        Some(version) => version,
        None => app
            .state_of(&addressed.artifact)?
            .current
            .ok_or_else(|| Problem::from(LeaseAskError::NoCurrent { artifact: addressed.artifact.clone() }))?,
    };
    let dir = passed.dir(body.target.as_ref())?;
    let request =
        FillRequest { dir: dir.get().clone(), link: body.link, target: body.target, peer: seed::Peer { uid, gid } };
    match app.reconciler.fill(FillAsk { artifact: addressed.artifact, version, request }).await? {
        Filling::Seeded(seeded, _) => {
            app.metrics.seeded(&seeded);
            Ok(Json(*seeded))
        }
        Filling::Receive(why) => Err(why.into()),
    }
}

impl From<Receive> for Problem {
    fn from(why: Receive) -> Self {
        Self::new(Kind::Receive, why, "receive …/versions/{version}/tree.tar and write it, as `seedcache seed` does")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::NoDirectory(_) => Kind::Malformed,
            Refusal::NotOwner { .. } | Refusal::InStore | Refusal::ReadOnly => Kind::Forbidden,
            Refusal::Occupied | Refusal::OtherMode(_) | Refusal::NoLink { .. } => Kind::Conflict,
        };
        Self::new(kind, refusal, "change what the detail names, then ask again")
    }
}

impl From<FillAskError> for Problem {
    fn from(error: FillAskError) -> Self {
        match error {
            FillAskError::Wait(error) => error.into(),
            FillAskError::Store(error) => error.into(),
            FillAskError::Fs(error) => error.into(),
            FillAskError::Busy { .. } => Self::new(Kind::Busy, error_chain(&error), "ask again in a while"),
            FillAskError::Fill(FillError::Refused(refusal)) => refusal.into(),
            FillAskError::Fill(FillError::Seed(error)) => error.into(),
            FillAskError::Task(error) => error.into(),
        }
    }
}
