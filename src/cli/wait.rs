//! Waiting: how long people let a command wait, and going on with it when the daemon restarts meanwhile.

use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::connection::ClientError;
use crate::intent::Interval;

/// How long commands wait when nobody says.
pub(super) const DEFAULT: &str = "10m";
/// The longest wait that makes sense.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest that one question waits; a longer wait is made of several (the daemon takes an hour at most).
const PIECE: Duration = Duration::from_secs(10 * 60);
/// How long others who seed the same target are waited for even by those who wait for no version.
pub(super) const LEAST_FOR_OTHERS: Duration = Duration::from_secs(5);
/// The first pause; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why a text is no time to wait.
#[derive(Debug, thiserror::Error)]
pub(super) enum LimitError {
    /// Not a duration.
    #[error("that is no length of time; write it like `30s` or `10m`, and names before --wait")]
    Malformed,
    /// Over 30 days.
    #[error("that is longer than 30 days; nothing waits that long")]
    TooLong,
}

/// The time to wait, as people write it.
pub(super) fn limit(text: &str) -> Result<Duration, LimitError> {
    let Interval(limit) = text.parse().map_err(|_| LimitError::Malformed)?;
    if limit <= LONGEST { Ok(limit) } else { Err(LimitError::TooLong) }
}

/// Whether a failure goes away by itself when the daemon comes back. Before it was ever `reached`, an unreachable
/// daemon more likely stands elsewhere, and that is said at once.
pub(super) fn may_pass(error: &ClientError, reached: bool) -> bool {
    match error {
        ClientError::Unreachable { .. } => reached,
        ClientError::Lost { .. } => true,
        ClientError::Problem(problem) => problem.status == StatusCode::SERVICE_UNAVAILABLE || problem.is_busy(),
        ClientError::Silent { .. }
        | ClientError::Foreign { .. }
        | ClientError::TooLong { .. }
        | ClientError::Unreadable { .. } => false,
    }
}

fn is_over(absence: Option<Duration>, since: Instant) -> bool {
    absence.is_some_and(|absence| since.elapsed() >= absence)
}

/// One piece of a long wait is over, not the wait.
fn is_late(error: &ClientError) -> bool {
    matches!(error, ClientError::Problem(problem) if problem.status == StatusCode::REQUEST_TIMEOUT)
}

/// Asks with the time that is left, again after each failure that may pass, until `wait` is over.
pub(super) async fn until<T>(
    wait: Duration,
    ask: impl AsyncFnMut(Duration) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    until_gone(wait, None, ask).await
}

/// The same, but a daemon that was there is missed for no longer than `absence`.
pub(super) async fn until_gone<T>(
    wait: Duration,
    absence: Option<Duration>,
    mut ask: impl AsyncFnMut(Duration) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let deadline = Instant::now() + wait;
    let (mut pause, mut reached) = (FIRST_PAUSE, false);
    let mut gone_since: Option<Instant> = None;
    loop {
        match ask(deadline.saturating_duration_since(Instant::now()).min(PIECE)).await {
            Err(error) if Instant::now() + pause < deadline && is_late(&error) => {
                (pause, reached, gone_since) = (FIRST_PAUSE, true, None)
            }
            Err(error) if error.is_absence() && is_over(absence, *gone_since.get_or_insert_with(Instant::now)) => {
                return Err(error);
            }
            Err(error) if Instant::now() + pause < deadline && may_pass(&error, reached) => reached = true,
            answer => return answer,
        }
        sleep(spread(pause)).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Asks again while another is at it, until `wait` is over; `told` is called before each pause. All other failures are
/// the caller's.
pub(super) async fn while_busy<T>(
    wait: Duration,
    mut told: impl FnMut(),
    mut ask: impl AsyncFnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let deadline = Instant::now() + wait;
    let mut pause = FIRST_PAUSE;
    loop {
        match ask().await {
            Err(ClientError::Problem(problem)) if problem.is_busy() && Instant::now() + pause < deadline => told(),
            answer => return answer,
        }
        sleep(spread(pause)).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Asks a daemon that may not be there yet, again for up to `limit` until it answers.
pub(super) async fn arrival(
    limit: Duration,
    mut ask: impl AsyncFnMut(Duration) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        match ask(deadline.saturating_duration_since(Instant::now())).await {
            Err(error) if Instant::now() + pause < deadline && may_pass(&error, true) => {}
            answer => return answer,
        }
        sleep(spread(pause)).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// A thousand pods wait for one daemon: they come back spread out.
pub(super) fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::problem::Problem;

    #[test]
    fn a_wait_is_written_as_a_duration_and_has_an_end() {
        assert_eq!(limit(DEFAULT).unwrap(), Duration::from_secs(600));
        assert_eq!(limit("0s").unwrap(), Duration::ZERO);
        assert_eq!(limit("30d").ok(), None);
        assert_eq!(limit("720h").unwrap(), LONGEST);
        assert!(matches!(limit("721h"), Err(LimitError::TooLong)));
        assert!(matches!(limit("smartos-platform"), Err(LimitError::Malformed)));
    }

    #[test]
    fn only_what_a_restart_mends_is_tried_again() {
        let server: crate::cli::server::Server = "http://node:1".parse().unwrap();
        let refused = std::io::ErrorKind::ConnectionRefused;
        let unreachable = ClientError::Unreachable { server: server.clone(), source: refused.into() };
        assert!(!may_pass(&unreachable, false));
        assert!(may_pass(&unreachable, true));
        let problem = |status: StatusCode| ClientError::Problem(Box::new(Problem::read(status, b"{}").unwrap()));
        assert!(may_pass(&problem(StatusCode::SERVICE_UNAVAILABLE), false));
        for status in [StatusCode::NOT_FOUND, StatusCode::REQUEST_TIMEOUT, StatusCode::BAD_GATEWAY] {
            assert!(!may_pass(&problem(status), true), "{status}");
        }
        assert!(!may_pass(&ClientError::TooLong { server }, true));
    }

    fn answers(script: Vec<Result<u8, ClientError>>, wait: Duration) -> (Result<u8, ClientError>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut script = script.into_iter();
        let answer = runtime.block_on(until(wait, async |_| script.next().unwrap()));
        (answer, script.count())
    }

    fn problem(kind: &str) -> ClientError {
        let body = format!(r#"{{"type":"urn:seedcache:problem:{kind}"}}"#);
        ClientError::Problem(Box::new(Problem::read(StatusCode::CONFLICT, body.as_bytes()).unwrap()))
    }

    #[test]
    fn who_finds_another_at_it_asks_again_while_there_is_time() {
        let long = Duration::from_secs(60);
        let (answer, left) = answers(vec![Err(problem("busy")), Err(problem("busy")), Ok(1), Ok(2)], long);
        assert_eq!((answer.unwrap(), left), (1, 1));
        for (kind, wait) in [("conflict", long), ("busy", Duration::ZERO)] {
            let (answer, left) = answers(vec![Err(problem(kind)), Ok(1)], wait);
            assert!(matches!(answer, Err(ClientError::Problem(_))), "{kind}");
            assert_eq!(left, 1);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut told = 0;
        let mut script = vec![Err(problem("busy")), Ok(1), Ok(2)].into_iter();
        let answer = runtime.block_on(while_busy(long, || told += 1, async || script.next().unwrap()));
        assert_eq!((answer.unwrap(), told, script.count()), (1, 1, 1));
        let mut script = vec![Err(problem("conflict")), Ok(1)].into_iter();
        assert!(runtime.block_on(while_busy(long, || {}, async || script.next().unwrap())).is_err());
    }

    #[test]
    fn a_daemon_that_is_to_come_is_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let unreachable = || {
            let source = std::io::ErrorKind::ConnectionRefused.into();
            Err(ClientError::Unreachable { server: "http://node:1".parse().unwrap(), source })
        };
        let long = Duration::from_secs(60);
        for (limit, mut script, arrives, left) in [
            (long, vec![unreachable(), unreachable(), Ok(()), Ok(())].into_iter(), true, 1),
            (Duration::ZERO, vec![unreachable(), Ok(())].into_iter(), false, 1),
        ] {
            let answer = runtime.block_on(arrival(limit, async |_| script.next().unwrap()));
            assert_eq!((answer.is_ok(), script.count()), (arrives, left), "{limit:?}");
        }
    }

    #[test]
    fn a_daemon_that_was_reached_is_waited_for() {
        let unreachable = || {
            let source = std::io::ErrorKind::ConnectionRefused.into();
            Err(ClientError::Unreachable { server: "http://node:1".parse().unwrap(), source })
        };
        let stopping =
            || Err(ClientError::Problem(Box::new(Problem::read(StatusCode::SERVICE_UNAVAILABLE, b"{}").unwrap())));
        let late = || Err(ClientError::Problem(Box::new(Problem::read(StatusCode::REQUEST_TIMEOUT, b"{}").unwrap())));
        let long = Duration::from_secs(60);
        let (answer, left) = answers(vec![late(), unreachable(), late(), Ok(1), Ok(2)], long);
        assert_eq!((answer.unwrap(), left), (1, 1));
        let (answer, left) = answers(vec![late(), Ok(1)], Duration::ZERO);
        assert!(matches!(answer, Err(ClientError::Problem(_))));
        assert_eq!(left, 1);
        let (answer, left) = answers(vec![stopping(), unreachable(), Ok(1), Ok(2)], long);
        assert_eq!((answer.unwrap(), left), (1, 1));
        let (answer, left) = answers(vec![unreachable(), Ok(1)], long);
        assert!(matches!(answer, Err(ClientError::Unreachable { .. })));
        assert_eq!(left, 1);
        let (answer, left) = answers(vec![stopping(), Ok(1)], Duration::ZERO);
        assert!(matches!(answer, Err(ClientError::Problem(_))));
        assert_eq!(left, 1);
    }
}
