//! The one place where what happened becomes an exit code.

use std::io;
use std::process::ExitCode;

use http::StatusCode;

use super::connection::ClientError;
use super::refresh::RefreshFailed;
use super::seed::{FetchError, HandOverError, TargetError};
use super::token::TokenError;
use crate::node::NodeError;

/// What a command ends with; the contract that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// All was done.
    Done = 0,
    /// It failed, or damage was found.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such artifact or version.
    NotFound = 3,
    /// It did not come in the time given.
    TimedOut = 4,
    /// No daemon answers.
    Unreachable = 5,
    /// SIGINT: as shells tell of one who is ended by it.
    Interrupted = 128 + 2,
    /// SIGTERM.
    Terminated = 128 + 15,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The daemon refused, failed or did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The target cannot be sent.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The tree did not get from the daemon to the target.
    #[error(transparent)]
    HandOver(Box<HandOverError>),
    /// There is no daemon, and the archive could not be had without it.
    #[error(transparent)]
    Fetch(Box<FetchError>),
    /// The source had nothing.
    #[error(transparent)]
    Refresh(#[from] RefreshFailed),
    /// The daemon does not run.
    #[error(transparent)]
    Node(Box<NodeError>),
    /// The system gave no threads or descriptors.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    /// Standard output takes nothing.
    #[error("cannot write to standard output")]
    Print(#[from] io::Error),
    /// An answer that cannot be put into JSON.
    #[error("cannot write the answer as JSON")]
    Json(#[from] serde_json::Error),
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Failure::Node(Box::new(error))
    }
}

impl From<HandOverError> for Failure {
    fn from(error: HandOverError) -> Self {
        Failure::HandOver(Box::new(error))
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Failure::Fetch(Box::new(error))
    }
}

impl Failure {
    /// The code that a failed command ends with.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Failure::Client(error) => of_client(error),
            Failure::HandOver(error) if error.is_for_others() => Exit::TimedOut,
            Failure::Token(_)
            | Failure::Target(_)
            | Failure::HandOver(_)
            | Failure::Fetch(_)
            | Failure::Refresh(_)
            | Failure::Node(_)
            | Failure::Runtime(_)
            | Failure::Print(_)
            | Failure::Json(_) => Exit::Failed,
        }
    }

    /// What to do about it, where the message does not say.
    pub(super) fn next(&self) -> Option<String> {
        match self {
            Failure::Client(error) => error.next(),
            Failure::Refresh(failed) => Some(failed.next()),
            Failure::Node(error) => error.next().map(str::to_owned),
            _ => None,
        }
    }
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::Unreachable { .. } | ClientError::Lost { .. } | ClientError::Silent { .. } => Exit::Unreachable,
        ClientError::Problem(problem) => match problem.status {
            StatusCode::NOT_FOUND => Exit::NotFound,
            StatusCode::REQUEST_TIMEOUT => Exit::TimedOut,
            _ if problem.is_busy() => Exit::TimedOut,
            _ => Exit::Failed,
        },
        ClientError::Foreign { .. } | ClientError::TooLong { .. } | ClientError::Unreadable { .. } => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::problem::Problem;

    fn problem(status: u16) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        Failure::Client(ClientError::Problem(Box::new(Problem::read(status, b"{}").unwrap())))
    }

    #[test]
    fn each_failure_has_its_code() {
        for (failure, code) in [
            (problem(404), 3),
            (problem(408), 4),
            (problem(400), 1),
            (problem(403), 1),
            (problem(409), 1),
            (problem(502), 1),
            (problem(503), 1),
            (Failure::Print(io::ErrorKind::StorageFull.into()), 1),
            (Failure::Target(TargetError::NotText { target: "x".into() }), 1),
        ] {
            assert_eq!(failure.exit() as u8, code, "{failure:?}");
        }
    }
}
