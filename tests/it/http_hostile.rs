//! The API as an attacker asks it: every address with every method, and paths that try to lead out.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::fixture::archive::Archive;
use crate::fixture::http::Response;
use crate::fixture::node::{Node, Over};
use crate::fixture::origin::Origin;
use crate::fixture::passing::as_user;
use crate::fixture::tree::walk;
use crate::fixture::{PATIENCE, scratch};

const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "BREW"];
const SECRET: &str = "nobody is to read this";

/// A node with one version, the archive kept, and a token that is not sent. Beside its store and in it lies a secret.
fn node(elsewhere: &Path) -> (Origin, Node) {
    fs::write(elsewhere.join("token"), "t0ken").unwrap();
    let origin = Origin::start();
    let archive = Archive::new()
        .dir("top/", 0o755)
        .file("top/VERSION", 0o644, b"v1")
        .dir("top/dir/", 0o755)
        .file("top/dir/file", 0o644, b"deep")
        .file("top/100%", 0o644, b"odd")
        .symlink("top/link", "dir/file");
    origin.serve("/app.tgz", archive.tgz());
    let document = format!(
        "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: app}}
spec:
  version: v1
  source: {{http: {{url: '{}'}}}}
  unpack: {{stripComponents: 1}}
  keepArchive: true
  seeds: [{{target: declared}}]
",
        origin.url("/app.tgz")
    );
    let settings = format!("listen: {{tokenFile: '{}'}}", elsewhere.join("token").display());
    let node = Node::builder().settings(&settings).document("app.yaml", &document).start();
    node.wait_state("app", "seeded", PATIENCE, |state| state["seeds"][0]["state"] == "Ready");
    fs::write(node.root().join("secret"), SECRET).unwrap();
    fs::write(node.store().join("secret"), SECRET).unwrap();
    (origin, node)
}

/// What lies below a directory, each with what a change of it would change.
fn print(dir: &Path) -> BTreeMap<String, (u64, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    // What the daemon writes by itself, whoever asks.
    let own = ["index", "sound", "scrub.json", "seeds.recent", "seeds.json"];
    walk(dir)
        .into_iter()
        .filter(|(path, meta)| !meta.is_dir() && !path.iter().any(|name| own.iter().any(|own| name == *own)))
        .map(|(path, meta)| (path.display().to_string(), (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())))
        .collect()
}

/// The methods of each address in the document, by the address with names that there are.
fn documented(node: &Node) -> BTreeMap<String, BTreeMap<String, Vec<u16>>> {
    let document = node.get_json("/openapi.json");
    let statuses = |operation: &Value| -> Vec<u16> {
        operation["responses"].as_object().unwrap().keys().map(|status| status.parse().unwrap()).collect()
    };
    let paths = document["paths"].as_object().unwrap().iter().map(|(path, item)| {
        let operations = item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters");
        let mut methods: BTreeMap<String, Vec<u16>> =
            operations.map(|(method, operation)| (method.to_ascii_uppercase(), statuses(operation))).collect();
        if let Some(get) = methods.get("GET").cloned() {
            methods.insert("HEAD".into(), get);
        }
        let names = [("{name}", "app"), ("{version}", "v1"), ("{holder}", "me"), ("{path}", "VERSION")];
        (names.iter().fold(path.clone(), |path, (name, value)| path.replace(name, value)), methods)
    });
    paths.collect()
}

/// Who may read, and change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stranger {
    /// Over TCP, without a token.
    Tokenless,
    WrongToken,
    /// Over the socket, and neither root nor the daemon's user.
    OtherUser,
}

impl Stranger {
    /// What is told to one who asks for what is not theirs.
    fn refusal(self) -> u16 {
        if self == Self::OtherUser { 403 } else { 401 }
    }

    fn ask(self, node: &Node, method: &str, path: &str, body: Option<&[u8]>) -> Response {
        let (over, headers): (_, &[(&str, &str)]) = match self {
            Self::Tokenless => (Over::Tcp, &[]),
            Self::WrongToken => (Over::Tcp, &[("Authorization", "Bearer t0kem")]),
            Self::OtherUser => (Over::Socket, &[]),
        };
        node.try_request(over, method, path, headers, body).unwrap_or_else(|e| panic!("{self:?} {method} {path}: {e}"))
    }
}

#[test]
fn every_address_takes_its_own_methods_and_changes_nothing_for_strangers() {
    let elsewhere = scratch();
    let (_origin, node) = node(elsewhere.path());
    let before = (print(node.store()), print(node.root()), node.state("app"));
    assert!(before.0.len() > 5, "{before:?}");
    // The other user has the socket mounted.
    fs::set_permissions(node.socket().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    for stranger in [Stranger::Tokenless, Stranger::WrongToken, Stranger::OtherUser] {
        match stranger {
            Stranger::OtherUser => as_user(65_534, || ask_for_everything(&node, stranger)),
            _ => ask_for_everything(&node, stranger),
        }
    }
    let after = (print(node.store()), print(node.root()), node.state("app"));
    assert_eq!(before, after);
    // Nor is there anything elsewhere.
    for path in ["/v1", "/v1/", "/v1/artifacts/", "/v1/artifacts/app/", "//v1/artifacts", "/V1/artifacts", "/v2", "/x"]
    {
        for method in METHODS {
            assert_eq!(node.request(method, path, &[]).status, 404, "{method} {path}");
        }
    }
}

fn ask_for_everything(node: &Node, stranger: Stranger) {
    let mut asked = 0;
    for (path, methods) in documented(node) {
        for method in METHODS {
            // These would go on for ever, or wait.
            let query = match (&*path, method) {
                ("/v1/events", _) => "?artifact=nosuch",
                ("/v1/artifacts/app/wait", _) => "?timeout=0",
                _ => "",
            };
            for body in [None, Some(&b"{}"[..])] {
                let over = format!("{stranger:?} {method} {path}");
                let answer = stranger.ask(node, method, &format!("{path}{query}"), body);
                asked += 1;
                match methods.get(method) {
                    Some(statuses) => assert!(statuses.contains(&answer.status), "{over}: {answer:?}"),
                    None => {
                        assert_eq!(answer.status, 405, "{over}: {answer:?}");
                        let mut allow: Vec<&str> = answer.header("allow").unwrap().split(',').map(str::trim).collect();
                        allow.sort_unstable();
                        assert_eq!(allow, methods.keys().collect::<Vec<_>>(), "{over}");
                    }
                }
                assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{over}");
                if method != "HEAD" && answer.status >= 400 {
                    answer.problem();
                }
                // What asks for a change gets as far as being refused, or asks for what everyone may.
                let seeds = path.ends_with("/seed") && stranger != Stranger::WrongToken;
                let open = seeds || path.ends_with("/fill");
                if !["GET", "HEAD"].contains(&method) && methods.contains_key(method) {
                    assert_eq!(answer.status, if open { 400 } else { stranger.refusal() }, "{over}: {answer:?}");
                }
            }
        }
    }
    assert!(asked > 300, "{asked}");
}

#[test]
fn no_path_leads_out_of_a_tree() {
    let elsewhere = scratch();
    let (_origin, node) = node(elsewhere.path());
    let long = |n: usize| "a".repeat(n);
    let files = "/v1/artifacts/app/versions/v1/files";
    let table: Vec<(String, u16)> = [
        ("/VERSION", 200),
        ("/VERSION?x=../..", 200),
        ("/%56ERSION", 200),
        ("/link", 200),
        ("/100%", 200),
        ("/100%25", 200),
        ("/dir/", 200),
        ("/dir", 200),
        ("/VERSION/", 404),
        ("/VERSION/x", 404),
        ("/VERSION/..", 400),
        ("/VERSION%2f", 400),
        ("/VERSION%00", 400),
        ("/VERSION%00/../../manifest.json", 400),
        ("/%00", 400),
        ("/..", 400),
        ("/../../../manifest.json", 400),
        ("/%2e%2e/manifest.json", 400),
        ("/%2E%2e/%2e%2E/secret", 400),
        ("/..%2f..%2fmanifest.json", 400),
        ("/%2e%2e%2fmanifest.json", 400),
        ("/dir/../VERSION", 400),
        ("/dir//file", 400),
        ("/./VERSION", 400),
        ("/%2e/VERSION", 400),
        ("//VERSION", 400),
        ("//", 400),
        ("//etc/passwd", 400),
        ("/%2fetc%2fpasswd", 400),
        ("/%252e%252e/manifest.json", 404),
        ("/..\\..\\manifest.json", 404),
        ("/%5c..%5cmanifest.json", 404),
        ("/%c0%ae%c0%ae/manifest.json", 404),
        ("/%ff%fe", 404),
        ("/%zz", 404),
        ("/%", 404),
        ("/%u002e%u002e/x", 404),
        ("/...", 404),
        ("/version", 404),
    ]
    .into_iter()
    .map(|(path, status)| (format!("{files}{path}"), status))
    .chain([
        (format!("{files}/{}", long(255)), 404),
        (format!("{files}/{}", long(256)), 400),
        (format!("{files}/{}", "a/".repeat(2047) + "a"), 404),
        (format!("{files}/{}", "a/".repeat(2048) + "a"), 400),
        (format!("{files}/{}", "%2e%2e/".repeat(4000)), 400),
        ("/v1/artifacts/..%2f..%2fsecret".into(), 404),
        ("/v1/artifacts/%2e%2e".into(), 404),
        ("/v1/artifacts/../../secret".into(), 404),
        ("/v1/artifacts/%ff".into(), 400),
        ("/v1/artifacts/%00".into(), 404),
        ("/v1/artifacts/app%2fversions".into(), 404),
        ("/v1/artifacts/APP".into(), 404),
        (format!("/v1/artifacts/{}", long(60_000)), 404),
        ("/v1/artifacts/app/versions/..".into(), 404),
        ("/v1/artifacts/app/versions/%2e%2e".into(), 404),
        ("/v1/artifacts/app/versions/../app/files/VERSION".into(), 404),
        ("/v1/artifacts/app/versions/..%2f..%2f..%2fsecret/files/".into(), 404),
        ("/v1/artifacts/app/versions/v1%00/files/VERSION".into(), 404),
        ("/v1/artifacts/app/versions/%ff/files/VERSION".into(), 400),
        ("/v1/artifacts/app/versions/v1/tree.tar/../manifest.json".into(), 404),
        ("/v1/artifacts/app/versions/v1/files%2fVERSION".into(), 404),
        ("/v1/artifacts/app/versions/v1/..%2fmanifest.json".into(), 404),
    ])
    .collect();
    for (path, status) in table {
        let answer = node.get(&path);
        let shown = &path[..path.len().min(120)];
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        assert!(!answer.text().contains(SECRET), "{shown}");
        if status >= 400 {
            answer.problem();
        }
        let head = node.request("HEAD", &path, &[]);
        assert_eq!(head.status, status, "HEAD {shown}");
    }
}

/// What is no HTTP ends its connection, and nothing else.
#[test]
fn what_is_no_http_is_refused() {
    let elsewhere = scratch();
    let (_origin, node) = node(elsewhere.path());
    let raw = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(node.url().trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The daemon may refuse before all was sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let close = "Host: localhost\r\nConnection: close\r\n\r\n";
    for (request, status) in [
        ("GET /v1/artifacts/\u{fc} HTTP/1.1\r\n", "HTTP/1.1 404"),
        ("GET  /healthz HTTP/1.1\r\n", "HTTP/1.1 400"),
        ("GET healthz HTTP/1.1\r\n", "HTTP/1.1 404"),
        ("GET /healthz\u{0} HTTP/1.1\r\n", "HTTP/1.1 400"),
        ("GET /healthz HTTP/9.9\r\n", "HTTP/1.1 400"),
        ("CONNECT /v1/artifacts HTTP/1.1\r\n", "HTTP/1.1 405"),
        ("CONNECT other.example:443 HTTP/1.1\r\n", "HTTP/1.1 4"),
        ("OPTIONS * HTTP/1.1\r\n", "HTTP/1.1 404"),
        ("GET http://other.example/healthz HTTP/1.1\r\n", "HTTP/1.1 200"),
        ("POST /v1/gc HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", "HTTP/1.1 4"),
        ("POST /v1/gc HTTP/1.1\r\nContent-Length: -1\r\n", "HTTP/1.1 400"),
        ("POST /v1/gc HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n", "HTTP/1.1 400"),
        ("GET /healthz HTTP/1.1\r\nBad Name: x\r\n", "HTTP/1.1 400"),
    ] {
        let answer = raw(format!("{request}{close}").as_bytes());
        assert!(answer.starts_with(status), "{request:?}: {answer:?}");
    }
    let too_long = format!("GET /{} HTTP/1.1\r\n{close}", "a".repeat(100_000));
    let answer = raw(too_long.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer:?}");
    let flood = format!("GET /healthz HTTP/1.1\r\n{}{close}", "X-Flood: 1\r\n".repeat(1_000));
    assert!(raw(flood.as_bytes()).starts_with("HTTP/1.1 431"), "{}", raw(flood.as_bytes()));
    assert_eq!(node.get("/healthz").text(), "ok\n");
}
