//! A running virtual machine, and what it tells the host. Its power is taken when it is dropped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::judge::Told;

/// A machine without hardware's help, beside others, is slow.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) struct Machine {
    child: Child,
    ask: ChildStdin,
    said: Receiver<String>,
    lines: Vec<String>,
    dropping: bool,
    /// Whether all that it says is shown.
    aloud: bool,
}

impl Machine {
    /// Its second serial line is qemu's standard input and output.
    pub(super) fn start(mut qemu: Command) -> Self {
        let mut child = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (send, said) = channel();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            // Half a line is none: the power went meanwhile.
            while out.read_until(b'\n', &mut line).is_ok() && line.pop() == Some(b'\n') {
                if send.send(String::from_utf8(std::mem::take(&mut line)).unwrap()).is_err() {
                    return;
                }
            }
        });
        let ask = child.stdin.take().unwrap();
        Self { child, ask, said, lines: Vec::new(), dropping: false, aloud: std::env::var_os("VM_ALOUD").is_some() }
    }

    /// Whether it has come up, and said all about what the last loss left. Else it has ended.
    pub(super) fn is_checked(&mut self) -> bool {
        self.listen(PATIENCE, |machine| machine.lines.last().is_some_and(|line| line == "checked"))
    }

    /// Lets it work until it has said so much more, and then for so long.
    pub(super) fn work(&mut self, lines: usize, then: Duration) {
        let enough = self.lines.len() + lines;
        self.listen(PATIENCE, |machine| machine.lines.len() >= enough);
        self.listen(then, |_| false);
    }

    /// Has its disk keep nothing any more. How much it had said before that.
    pub(super) fn drop_writes(&mut self) -> usize {
        let before = self.lines.len();
        self.ask.write_all(b"drop\n").unwrap();
        self.listen(PATIENCE, |machine| machine.dropping);
        assert!(self.dropping, "the machine did not do as it was told; it said {:?}", self.lines);
        before
    }

    /// All that it said.
    pub(super) fn lose_power(mut self, certain: Option<usize>) -> Told {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // What it had said until then is acknowledged, too.
        self.listen(PATIENCE, |_| false);
        let lines = std::mem::take(&mut self.lines);
        Told { certain: certain.unwrap_or(lines.len()), lines }
    }

    /// Takes down what it says, until that is enough, or so long, or it ends.
    fn listen(&mut self, patience: Duration, enough: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while !enough(self) {
            let Ok(line) = self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                return false;
            };
            if self.aloud {
                eprintln!("{line}");
            }
            if line == "dropping" {
                self.dropping = true;
                continue;
            }
            let next = self.lines.len() + 1;
            let told = line.split_once(' ').filter(|(number, _)| number.parse() == Ok(next));
            let Some((_, told)) = told else { panic!("line {next} of a machine was missed: {line:?} came") };
            self.lines.push(told.to_owned());
        }
        true
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
