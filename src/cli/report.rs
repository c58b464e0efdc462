//! How a failure is told: one line what went wrong, its causes, and what to do next.

use std::error::Error;
use std::io::Write as _;

use super::exit::Failure;
use super::human::plain;
use super::output;

const RED: &str = "\x1b[1;31m";
const CYAN: &str = "\x1b[1;36m";

/// Writes it to standard error. Whether anyone reads that is no longer our matter.
pub(super) fn tell(failure: &Failure) {
    let text = render(failure, failure.next().as_deref(), output::stderr_has_colours());
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The lines.
fn render(error: &dyn Error, next: Option<&str>, colours: bool) -> String {
    let label = |name: &str, colour: &str| {
        if colours { format!("{colour}{name}:\x1b[0m") } else { format!("{name}:") }
    };
    let mut text = format!("{} {}\n", label("error", RED), plain(&error.to_string()));
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!("  because: {}\n", plain(&error.to_string()));
        cause = error.source();
    }
    for line in next.into_iter().flat_map(str::lines) {
        text += &format!("{} {}\n", label("next", CYAN), plain(line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot reach it\x1b[2J")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn error_causes_and_next_step_each_have_their_line() {
        let error = Outer(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(
            render(&error, Some("start it\nor wait"), false),
            "error: cannot reach it\\u{1b}[2J\n  because: connection refused\nnext: start it\nnext: or wait\n"
        );
        assert!(render(&error, None, true).starts_with("\x1b[1;31merror:\x1b[0m cannot"));
    }
}
