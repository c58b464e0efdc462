//! The README says what is: its commands exist, and its quickstart does what it says.
//!
//! Commands are the lines that start with `$ ` in ```` ```console ```` blocks, and all lines in ```` ```sh ```` blocks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::fixture::cli::{Output, PROGRAM, run, seedcache};
use crate::fixture::node::Node;
use crate::fixture::origin::{Fault, Origin};
use crate::fixture::releases::Releases;
use crate::fixture::system::tool;
use crate::fixture::tree::{Demand, assert_same};
use crate::fixture::{PATIENCE, scratch, until};

/// Programs that the README may name besides our own.
const KNOWN: [&str; 12] =
    ["bash", "busybox", "cargo", "cat", "cd", "curl", "diff", "git", "kubectl", "ls", "sudo", "until"];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The commands in a Markdown text; a line that ends with a backslash goes on in the next.
fn commands(markdown: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let (mut block, mut goes_on) = (None, false);
    for line in markdown.lines() {
        if let Some(opened) = line.strip_prefix("```") {
            block = if block.is_some() { None } else { Some(opened.trim()) };
            continue;
        }
        let command = match block {
            _ if goes_on => Some(line),
            Some("console") => line.strip_prefix("$ "),
            Some("sh") => Some(line).filter(|line| !line.trim().is_empty() && !line.starts_with('#')),
            _ => None,
        };
        let Some(command) = command else { continue };
        let text = command.trim_end_matches('\\').trim();
        match commands.last_mut() {
            Some(last) if goes_on => *last = format!("{last} {text}"),
            _ => commands.push(text.to_owned()),
        }
        goes_on = command.ends_with('\\');
    }
    commands
}

/// The arguments for our own program in a command; none where it runs another.
fn own_arguments(command: &str) -> Option<Vec<&str>> {
    let command = command.split(" #").next().unwrap_or_default();
    let command = command.split(['|', '>']).next().unwrap_or_default();
    let forms = ["cargo run --release -- ", "./target/release/seedcache ", "target/release/seedcache ", "seedcache "];
    let rest = forms.iter().find_map(|form| command.strip_prefix(form))?;
    Some(rest.split_whitespace().map(|word| word.trim_matches(['\'', '"'])).collect())
}

/// What a command names and our program does not have.
fn unknown_in(arguments: &[&str]) -> Vec<String> {
    let subcommand = arguments.iter().find(|word| !word.starts_with('-') && !word.contains("://"));
    let Some(subcommand) = subcommand else { return Vec::new() };
    let help = seedcache(&[subcommand, "--help"]);
    if help.code != 0 {
        return vec![(*subcommand).to_owned()];
    }
    let flags = arguments.iter().filter(|word| word.starts_with('-') && **word != "-");
    let names = flags.map(|flag| flag.split('=').next().unwrap_or_default());
    let known = |flag: &str| help.stdout.split([' ', ',', '\n', '=', '[']).any(|word| word == flag);
    names.filter(|flag| !known(flag)).map(|flag| format!("{subcommand} {flag}")).collect()
}

#[test]
fn commands_are_found_in_markdown() {
    let markdown = "text\n```console\n$ seedcache status\noutput\n$ a \\\n  b\n```\n$ not in a block\n```sh\n# said\nc\n```\n```yaml\nd\n```\n";
    assert_eq!(commands(markdown), ["seedcache status", "a b", "c"]);
    assert_eq!(own_arguments("cargo run --release -- status -o json | jq ."), Some(vec!["status", "-o", "json"]));
    assert_eq!(own_arguments("ls -l"), None);
}

#[test]
fn every_command_exists() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let commands = commands(&readme);
    assert!(commands.iter().any(|command| command.starts_with("cargo run --release -- serve")), "{commands:?}");
    assert!(commands.iter().any(|command| command == "tests/run"), "{commands:?}");
    let mut wrong = Vec::new();
    for command in &commands {
        let word = command.split_whitespace().next().unwrap_or_default();
        match own_arguments(command) {
            Some(arguments) => wrong.extend(unknown_in(&arguments)),
            None if word == "export" && command.contains("SEEDCACHE_SERVER=unix://") => {}
            None if KNOWN.contains(&word) || repository().join(word).is_file() => {}
            None => wrong.push(command.clone()),
        }
    }
    assert!(wrong.is_empty(), "the README names what is not there: {wrong:?}");
}

/// Files that Markdown links lead to.
#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)#\s]+)[^)]*\)").unwrap();
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(repository().join(document)).unwrap_or_else(|e| panic!("{document}: {e}"));
        let targets = link.captures_iter(&text).map(|found| found[1].to_owned()).filter(|to| !to.contains("://"));
        let missing: Vec<_> = targets.filter(|to| !repository().join(to).exists()).collect();
        assert!(missing.is_empty(), "{document} leads to what is not there: {missing:?}");
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-R").args([from, to])).ok();
}

#[test]
fn the_quickstart_does_what_it_says() {
    let dir = scratch();
    copy_tree(&repository().join("config"), &dir.path().join("config"));
    let said = dir.path().join("said");
    let log = fs::File::create(&said).unwrap();
    let daemon = Command::new(PROGRAM)
        .args(["serve", "--config", "config/quickstart"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    let _daemon = Running(daemon.unwrap());
    let text = || fs::read_to_string(&said).unwrap_or_default();
    // What to try next is printed when the seeding is done.
    let printed = || -> Vec<String> {
        let text = text();
        let lines = text.lines().map(|line| line.trim().trim_start_matches("$ "));
        let own = |line: &&str| line.starts_with(PROGRAM) || line.starts_with("export ");
        lines.filter(own).map(str::to_owned).collect()
    };
    // The last of them is there when all are.
    let whole = |commands: &Vec<String>| commands.last().is_some_and(|last| last.contains(" verify "));
    let commands = until("commands to try next", PATIENCE, || Some(printed()).filter(whole));
    assert!(commands.len() >= 5, "{commands:?}");
    assert!(text().contains("  seeded to seedcache-quickstart/sdc-ipxe/smartos ("), "{}", text());
    // As typed one after the other into one shell.
    let typed = commands.join(" &&\n");
    let output = run(Command::new("sh").args(["-c", &typed]).current_dir(dir.path()).env_remove("SEEDCACHE_SERVER"));
    assert_eq!(output.code, 0, "{typed}: {output:?}\n{}", text());
}

/// The lines for images without our program, which ask at `address`.
fn shell_lines(address: &str) -> Vec<String> {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n### Without our program\n").expect("the section is there");
    let lines = commands(section.split("\n##").next().unwrap());
    let lines: Vec<String> = lines.iter().map(|line| line.replace("$HOST:7070", address)).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    lines
}

/// Runs a line as it is typed.
fn typed(line: &str, dir: &Path) -> Output {
    let mut shell = Command::new("sh");
    for name in ["http_proxy", "all_proxy"] {
        shell.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    run(shell.args(["-c", line]).current_dir(dir))
}

#[test]
fn images_without_our_program_get_their_tree() {
    ["busybox", "curl", "bash"].iter().for_each(|program| drop(tool(program)));
    let releases = Releases::with("v1");
    let seeds = "  seeds: [{target: sdc-ipxe/smartos}]\n";
    let node = Node::start_with(&releases.document_with("smartos-platform", true, seeds));
    node.wait_ready("smartos-platform");
    let (tree, dir) = (node.tree("smartos-platform", "v1"), scratch());
    let content = Demand { mode_mask: 0, mtime: false, ..Demand::EXACT };
    for line in shell_lines(node.url().strip_prefix("http://").unwrap()) {
        let line = line.replace("/run/seedcache/seedcache.sock", node.socket().to_str().unwrap());
        if line.contains("tree.tar") {
            fs::remove_dir_all(dir.path().join("smartos")).ok();
            // What an earlier run left, whole or not, is neither kept nor nested.
            for _ in 0..2 {
                typed(&line, dir.path()).ok();
                assert_same(&tree, &dir.path().join("smartos"), content);
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        } else {
            let answer = typed(&line, dir.path()).ok().json();
            assert_eq!(
                (&answer["artifact"], &answer["version"]),
                (&"smartos-platform".into(), &"v1".into()),
                "{answer}"
            );
            assert_same(&tree, &node.root().join("sdc-ipxe/smartos"), content);
        }
    }
}

#[test]
fn a_tree_that_broke_off_is_not_taken_for_a_whole_one() {
    let (releases, dir) = (Releases::with("v1"), scratch());
    let node = Node::start_with(&releases.document_with("smartos-platform", true, ""));
    node.wait_ready("smartos-platform");
    let path = "/v1/artifacts/smartos-platform/versions/current/tree.tar";
    let tar = node.get(path).body;
    // Cut after an entry: a reader may take that for the end.
    let cut = tar.len() as u64 - 1024;
    let origin = Origin::start();
    origin.serve(path, tar);
    origin.always(path, Fault::CutAfter(cut));
    let address = origin.url("");
    for line in shell_lines(address.strip_prefix("http://").unwrap()).iter().filter(|line| line.contains("tree.tar")) {
        assert_ne!(typed(line, dir.path()).code, 0, "{line}");
        assert!(!dir.path().join("smartos").exists(), "{line}");
    }
    assert_eq!(origin.requests(path).len(), 2);
}
