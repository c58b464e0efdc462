//! Who is told what: host paths are for operators, and browsers are answered under names of the daemon alone.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::json;

use crate::fixture::http::Response;
use crate::fixture::node::{Node, Over};
use crate::fixture::releases::Releases;
use crate::fixture::system::{run_as_root, tool};
use crate::fixture::{PATIENCE, scratch, until};

const TOKEN: &str = "t0ken";
const BEARER: [(&str, &str); 1] = [("Authorization", "Bearer t0ken")];

/// A node on which much is wrong, each with a path in what is told of it.
fn troubled(releases: &Releases, elsewhere: &Path) -> Node {
    fs::write(elsewhere.join("token"), TOKEN).unwrap();
    let source = |name: &str, source: &str| {
        format!(
            "---\napiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: {name}}}\nspec:\n  version: v1\n  source: {source}\n"
        )
    };
    let gone = source("gone", &format!("{{file: {{path: '{}/gone.tgz'}}}}", elsewhere.display()));
    let secret = format!(
        "{{http: {{url: '{}', headers: {{X-Key: {{fromFile: {}/key}}}}}}}}",
        releases.origin.url("/x"),
        elsewhere.display()
    );
    let documents = format!(
        "{}{gone}{}",
        releases.document_with("app", true, "  seeds: [{target: taken}, {target: free}]\n"),
        source("keyless", &secret)
    );
    let root = elsewhere.join("root");
    fs::create_dir_all(root.join("taken")).unwrap();
    fs::write(root.join("taken/of-others"), "").unwrap();
    let settings = format!("listen: {{tokenFile: '{}'}}", elsewhere.join("token").display());
    let node = Node::builder()
        .root(&root)
        .settings(&settings)
        .document("app.yaml", &documents)
        .document("refused.yaml", &source("refused", "{file: {path: /x, nonsense: 1}}"))
        .start();
    let failed = |name: &str| {
        node.wait_state(name, "its error", PATIENCE, |state| state["lastError"].is_string());
    };
    ["gone", "keyless", "refused"].into_iter().for_each(failed);
    node.wait_state("app", "the failed seed", PATIENCE, |state| {
        let seeds = state["seeds"].as_array().unwrap();
        seeds.iter().any(|seed| seed["state"] == "Failed") && seeds.iter().any(|seed| seed["state"] == "Ready")
    });
    node
}

/// All that can be asked without changing anything.
const READ: [&str; 14] = [
    "/",
    "/readyz",
    "/readyz?artifact=app",
    "/readyz?artifact=gone",
    "/metrics",
    "/openapi.json",
    "/v1/artifacts",
    "/v1/artifacts/app",
    "/v1/artifacts/gone",
    "/v1/artifacts/refused",
    "/v1/artifacts/app/wait?timeout=0",
    "/v1/artifacts/gone/wait?timeout=0",
    "/v1/artifacts/keyless/wait?version=v1&timeout=0",
    "/v1/artifacts/app/versions/v1/archive",
];

/// Seeds that fail, and one that does not.
const SEEDS: [(&str, u16); 5] = [("taken", 409), ("free", 200), ("/", 400), ("/etc", 400), ("undeclared", 403)];

#[test]
fn readers_are_told_no_path_of_the_host() {
    let (releases, elsewhere) = (Releases::with("v1"), scratch());
    let node = troubled(&releases, elsewhere.path());
    let config = node.config().parent().unwrap().to_owned();
    let paths = [elsewhere.path(), &config, node.store()].map(|path| path.to_str().unwrap().to_owned());
    let leaks = |what: &str, answer: &Response| {
        let text = answer.text();
        assert!(!paths.iter().any(|path| text.contains(path)), "{what}: {text}");
    };
    for path in READ {
        leaks(path, &node.get(path));
        leaks(path, &node.request("GET", path, &[("Authorization", "Bearer wrong")]));
    }
    let wait = node.get("/v1/artifacts/gone/wait?timeout=0").problem();
    for text in [&wait["detail"], &wait["state"]["lastError"], &node.get_json("/readyz")["failed"][0]["error"]] {
        assert!(text.as_str().unwrap().contains("…/gone.tgz"), "what is wrong is told: {text}");
    }
    for (target, status) in SEEDS {
        let body = json!({"target": target});
        let answer = node.post_json(Over::Tcp, "/v1/artifacts/app/seed", &body);
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
        leaks(target, &answer);
        if status == 200 {
            assert_eq!(answer.json()["target"], target);
        }
    }
    for (method, path) in [("POST", "/v1/gc?dryRun=true"), ("DELETE", "/v1/artifacts/app/versions/v1"), ("PUT", "/x")] {
        leaks(path, &node.request(method, path, &[]));
    }
    let told = events(&node);
    assert!(told.contains("…/gone.tgz") && !paths.iter().any(|path| told.contains(path)), "{told}");

    // A peer on the socket who is not the owner is told no more.
    fs::set_permissions(node.socket().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let curl = tool("curl");
    let socket = node.socket();
    let other = ["--reuid=65534", "--regid=65534", "--clear-groups", curl.to_str().unwrap(), "-sS", "--unix-socket"];
    for path in READ {
        let address = format!("http://localhost{path}");
        let told = run_as_root("setpriv", other.into_iter().chain([socket.to_str().unwrap(), &address]));
        assert!(!told.is_empty() && !paths.iter().any(|path| told.contains(path)), "{path}: {told}");
    }
}

/// The first of the events, up to `synced`.
fn events(node: &Node) -> String {
    let mut stream = TcpStream::connect(node.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.0\r\n\r\n").unwrap();
    let mut told = String::new();
    let mut reader = BufReader::new(stream);
    while !told.contains("event: synced") {
        assert_ne!(reader.read_line(&mut told).unwrap(), 0, "{told}");
    }
    told
}

#[test]
fn files_of_the_store_that_cannot_be_read_tell_no_path_either() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let version = "/v1/artifacts/app/versions/v1";
    let (file, tree) = (format!("{version}/files/VERSION"), format!("{version}/tree.tar"));
    let root = node.root().to_str().unwrap();
    let hides = |told: &str| assert!(!told.contains(root), "{told}");
    let read = || {
        let answer = node.get(&file);
        hides(&answer.text());
        answer
    };
    // The daemon finds such damage by itself and has the version again: it is done anew until somebody was told of it.
    let spoiled = |replace: fn(&Path), what: &str, is_told: &dyn Fn() -> bool| {
        until(what, PATIENCE, || {
            spoil(&node.tree("app", "v1"), replace);
            is_told().then_some(())
        });
    };
    let led_out: fn(&Path) = |path| drop(symlink("/etc/passwd", path));
    spoiled(led_out, "a symlink in a file's place", &|| read().text().contains("the daemon's log says more"));
    // It is an error of which operators are told the path.
    spoiled(led_out, "the path of what cannot be opened", &|| {
        node.try_request(Over::Socket, "GET", &file, &[], None).unwrap().text().contains(root)
    });
    spoiled(led_out, "an archive that is cut short", &|| {
        hides(&raw(&node, &tree));
        node.log_text().contains("body cut short")
    });
    spoiled(|_| {}, "a file that is gone", &|| read().status == 500);
    for path in ["/v1/artifacts/app", "/v1/artifacts/app/wait?timeout=0", "/readyz?artifact=app", "/metrics"] {
        hides(&node.get(path).text());
    }
}

/// Takes a file out of a tree of the store, where it is there, and has something come in its place.
fn spoil(tree: &Path, replace: fn(&Path)) {
    let path = tree.join("VERSION");
    // It may be on its way to quarantine, or back.
    let _ = fs::set_permissions(tree, fs::Permissions::from_mode(0o755));
    if fs::remove_file(&path).is_ok() {
        replace(&path);
    }
}

/// All that is answered over TCP, however it ends.
fn raw(node: &Node, path: &str) -> String {
    let mut stream = TcpStream::connect(node.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told);
    String::from_utf8_lossy(&told).into_owned()
}

#[test]
fn operators_are_told_all() {
    let (releases, elsewhere) = (Releases::with("v1"), scratch());
    let node = troubled(&releases, elsewhere.path());
    let path = elsewhere.path().to_str().unwrap();
    let taken = json!({"target": "taken"}).to_string();
    for (over, headers) in [(Over::Socket, &[][..]), (Over::Tcp, &BEARER[..])] {
        let ask = |method, path: &str, body: Option<&str>| {
            node.try_request(over, method, path, headers, body.map(str::as_bytes)).unwrap().text()
        };
        for address in ["/readyz", "/v1/artifacts", "/v1/artifacts/gone", "/v1/artifacts/gone/wait?timeout=0"] {
            let told = ask("GET", address, None);
            assert!(told.contains(path), "{address}: {told}");
        }
        let told = ask("POST", "/v1/artifacts/app/seed", Some(&taken));
        assert!(told.contains(path), "{told}");
        let told = ask("POST", "/v1/artifacts/app/seed", Some(&json!({"target": "free"}).to_string()));
        assert!(told.contains(&format!("{path}/{}/free", "root")), "{told}");
    }
}

#[test]
fn a_page_of_another_site_reads_nothing_by_its_own_name() {
    let releases = Releases::with("v1");
    let node = Node::start_with(&releases.document());
    node.wait_ready("app");
    let ask = |over, method: &str, path: &str, headers: &[(&str, &str)]| {
        node.try_request(over, method, path, headers, None).unwrap()
    };
    let evil = ("Host", "evil.example:7070");
    let browser = ("Accept-Language", "en");
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1/artifacts"),
        ("GET", "/v1/artifacts/app/versions/v1/files/VERSION"),
        ("GET", "/no/such"),
        ("POST", "/v1/artifacts/app/seed"),
        ("BREW", "/"),
    ] {
        let refused = ask(Over::Tcp, method, path, &[evil, browser]);
        assert_eq!(refused.status, 421, "{path}: {}", refused.text());
        assert!(refused.problem()["detail"].to_string().contains("evil.example"));
        assert!(refused.header("access-control-allow-origin").is_none());
    }
    let page = "/v1/artifacts/app/versions/v1/files/VERSION";
    for (over, headers) in [
        // Clients of pods, whatever they call the node.
        (Over::Tcp, &[evil][..]),
        (Over::Tcp, &[("Host", "node-1.example.com:7070")]),
        (Over::Tcp, &[("Host", "seedcache.seedcache.svc:7070"), browser]),
        (Over::Tcp, &[("Host", "seedcache"), browser]),
        // People's browsers.
        (Over::Tcp, &[("Host", "127.0.0.1:7070"), browser, ("Origin", "http://127.0.0.1:7070")]),
        (Over::Tcp, &[("Host", "[::1]:7070"), browser]),
        (Over::Tcp, &[("Host", "localhost:8080"), browser]),
        // No page gets to a socket.
        (Over::Socket, &[evil, browser]),
    ] {
        let answer = ask(over, "GET", page, headers);
        assert_eq!((answer.status, answer.text()), (200, "v1".to_owned()), "{headers:?}");
    }
}
