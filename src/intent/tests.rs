//! Documents and settings as operators write them, right and wrong.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const GOOD: &str = r"apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {name: smartos-platform, labels: {a: b}}
spec:
  source:
    http:
      latest:
        url: https://origin.example/SmartOS/latest
        pattern: '(?<version>\d{8}T\d{6}Z(_u\d+)?)$'
      checksums:
        url: https://origin.example/SmartOS/{version}/sha256sums.txt
        file: 'platform-*.tgz'
      url: https://origin.example/SmartOS/{version}/{file}
      mirrors: ['https://mirror.example/{version}/{file}']
      headers: {X-Token: {fromFile: secret/token}, X-Plain: text}
      connections: 4
      redirectsTo: [s3.internal, 10.0.0.5]
  version: latest
  pin: 20260101T000000Z
  refresh: 1h
  unpack:
    format: auto
    stripComponents: 1
    prefix: platform
    include: []
    exclude: [root.password]
    require: [platform/i86pc/kernel/amd64/unix]
    limits: {bytes: 4GiB, ratio: 200, entries: 1000000}
    owner: {uid: 0, gid: 0}
  keepArchive: false
  retain: {versions: 3, for: 48h}
  seeds:
    - target: sdc-ipxe/smartos
      link: auto
      swap: exchange
      render:
        - path: smartos.ipxe
          mode: '0600'
          template: |
            #!ipxe
            --- not a document's end
      values: {token: {fromFile: secret/token}, address: 10.0.0.1}
";

fn parse(text: &str) -> Vec<Result<Artifact, String>> {
    let parsed = parse_documents(Path::new("/etc/d.yaml"), text).unwrap();
    parsed.into_iter().map(|parsed| parsed.artifact.map_err(|error| error_chain(&error))).collect()
}

fn refusal(text: &str) -> String {
    let mut parsed = parse(text);
    assert_eq!(parsed.len(), 1, "{text}");
    parsed.remove(0).unwrap_err()
}

#[test]
fn every_field_of_the_contract_is_read() {
    let artifact = parse(GOOD).remove(0).unwrap();
    assert_eq!(artifact.name.as_str(), "smartos-platform");
    assert_eq!(artifact.unpack.limits.bytes, Bytes(4 << 30));
    assert_eq!(artifact.retain, Retain::default());
    assert_eq!(artifact.seeds[0].render[0].template, "#!ipxe\n--- not a document's end\n");
    assert_eq!(artifact.seeds[0].render[0].mode, FileMode(0o600));
    assert_eq!(artifact.seeds[0].values["token"], SeedValue::File { from_file: "/etc/secret/token".into() });
    assert!(!format!("{artifact:?}").contains("10.0.0.1"), "values are not shown");
    let Source::Http(http) = &artifact.source else { panic!("{:?}", artifact.source) };
    assert_eq!(http.headers["X-Token"], HeaderValue::File { from_file: "/etc/secret/token".into() });
    assert!(!format!("{artifact:?}").contains("text"), "header values are not shown");
    assert_eq!(http.connections, Connections(4));
    assert_eq!(http.redirects_to, ["s3.internal", "10.0.0.5"]);
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_field() {
    for (from, to, told) in [
        ("  keepArchive:", "  keepArchives:", ["spec.keepArchives", "did you mean `keepArchive`?"]),
        (
            "        url: https://origin.example/SmartOS/latest",
            "        urll: x",
            ["spec.source.http.latest.urll", "did you mean `url`?"],
        ),
        ("ratio: 200", "ratio: many", ["spec.unpack.limits.ratio", "whole number"]),
        ("bytes: 4GiB", "bytes: 4 parrots", ["spec.unpack.limits.bytes", "like `4GiB`"]),
        ("refresh: 1h", "refresh: soon", ["spec.refresh", "like `30s`"]),
        ("pin: 20260101T000000Z", "pin: ../x", ["spec.pin", "no version name"]),
        ("pin: 20260101T000000Z", "pin: latest", ["spec.pin", "to follow the newest, leave the version out: no `pin`"]),
        ("version: latest", "version: current", ["spec.version", "to follow the newest, leave the version out"]),
        ("name: smartos-platform", "name: Smart_OS", ["metadata.name", "no artifact name"]),
        ("kind: Artifact", "kind: ConfigMap", [": kind: ", "a ConfigMap does not belong here"]),
        ("v1alpha1\n", "v1\n", ["apiVersion", "write seedcache.dev/v1alpha1"]),
        ("labels: {a: b}", "label: {a: b}", ["metadata.label", "did you mean `labels`?"]),
        ("  version: latest\n", "  version: latest\n  version: x\n", ["spec.version", "given twice"]),
        ("    http:\n", "    htp:\n", ["spec.source", "did you mean `http`?"]),
        ("swap: exchange", "swap: inplace", ["spec.seeds[0].swap", "did you mean `inPlace`?"]),
        ("keepArchive: false", "keepArchive: maybe", ["spec.keepArchive", "true or false"]),
        ("mirrors: ['https://mirror.example/{version}/{file}']", "mirrors: none", ["mirrors", "a list belongs here"]),
        ("{uid: 0, gid: 0}", "{uid: 0}", ["spec.unpack.owner.gid", "missing"]),
        ("{uid: 0, gid: 0}", "{uid: 0, gid: 4294967295}", ["spec.unpack.owner.gid", "at most 4294967294"]),
        ("prefix: platform", "fileName: x", ["spec.unpack.fileName", "format: none"]),
        ("bytes: 4GiB", "bytes: 0", ["spec.unpack.limits.bytes", "at least 1"]),
        ("refresh: 1h", "refresh: 10ms", ["spec.refresh", "at least 1s"]),
        ("{fromFile: secret/token}", "{fromFile: ''}", ["headers.X-Token.fromFile", "empty"]),
        ("SmartOS/latest", "SmartOS/{version}/latest", ["spec.source.http.latest.url", "cannot stand here"]),
        ("target: sdc-ipxe/smartos", "target: ../etc", ["spec.seeds[0].target", "`..`"]),
        ("target: sdc-ipxe/smartos", "target: .seedcache/x", ["spec.seeds[0].target", "store"]),
        ("(?<version>", "(?<version", ["spec.source.http.latest.pattern", "regular expression"]),
        ("(?<version>", "(?<stamp>", ["pattern", "`version`"]),
        ("'platform-*.tgz'", "'platform-[.tgz'", ["checksums.file", "glob"]),
        ("{version}/{file}\n", "{stamp}/{file}\n", ["spec.source.http.url", "`{stamp}`"]),
        ("        file: 'platform-*.tgz'\n", "", ["spec.source.http.url", "checksums.file"]),
        ("https://mirror", "ftp://mirror", ["mirrors[0]", "http or https"]),
        ("X-Plain: text", "X Plain: text", ["headers", "header name"]),
        ("X-Plain: text", "x-token: text", ["spec.source.http.headers.x-token: ", "given twice"]),
        (
            "X-Token: {fromFile: secret/token}",
            "X-Token: {fromFile: secret/token, prefix: 'Bearer '}",
            ["spec.source.http.headers.X-Token.prefix: ", "no such field; known here are fromFile"],
        ),
        ("X-Plain: text", "X-Plain: {fromfile: x}", ["headers.X-Plain.fromfile: ", "did you mean `fromFile`?"]),
        ("X-Plain: text", "X-Plain: {}", ["headers.X-Plain.fromFile: ", "missing"]),
        ("X-Plain: text", "X-Plain: 5", ["headers.X-Plain: ", "a text, or `{fromFile: PATH}` belongs here"]),
        (
            "token: {fromFile: secret/token}",
            "token: {fromFile: secret/token, trim: true}",
            ["spec.seeds[0].values.token.trim: ", "no such field; known here are fromFile"],
        ),
        ("connections: 4", "connections: 0", ["spec.source.http.connections", "from 1 to 16"]),
        ("connections: 4", "connections: 17", ["spec.source.http.connections", "from 1 to 16"]),
        ("connections: 4", "connections: 400", ["spec.source.http.connections", "whole number"]),
        ("connections: 4", "connection: 4", ["spec.source.http.connection", "did you mean `connections`?"]),
        ("[s3.internal, 10.0.0.5]", "s3.internal", ["redirectsTo", "a list belongs here"]),
        ("[s3.internal, 10.0.0.5]", "['https://s3.internal']", ["redirectsTo[0]", "without scheme, port and path"]),
        ("[s3.internal, 10.0.0.5]", "[a.b, 's3.internal:9000']", ["redirectsTo[1]", "without scheme, port and path"]),
        ("[s3.internal, 10.0.0.5]", "['[fd00::5]:80']", ["redirectsTo[0]", "without scheme, port and path"]),
        ("[s3.internal, 10.0.0.5]", "['[fd00::5]', '*.internal']", ["redirectsTo[1]", "without scheme, port and path"]),
        ("[s3.internal, 10.0.0.5]", "['']", ["redirectsTo[0]", "without scheme, port and path"]),
        ("link: auto", "link: symbolic", ["spec.seeds[0].link", "symbolic"]),
        ("  version: latest\n", "  version: latest\n  sha256: abc\n", ["spec.sha256", "no digest"]),
        ("spec:", "spec: [", ["/etc/d.yaml", ""]),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let changed = GOOD.replacen(from, to, 1);
        let error = refusal(&changed);
        let line = changed.lines().zip(GOOD.lines()).position(|(changed, good)| changed != good).unwrap() + 1;
        let line = if to.is_empty() || to.ends_with('[') { String::new() } else { format!("/etc/d.yaml:{line}:") };
        assert!(error.starts_with(&line), "{to:?}: {line} {error}");
        for part in told {
            assert!(error.contains(part), "{to:?}: {part:?} is not in: {error}");
        }
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

#[test]
fn lines_count_from_the_start_of_the_file() {
    let bad = GOOD.replace("keepArchive", "keepArchives").replace("name: smartos-platform", "name: other");
    let text = format!("# comment\n---\n{GOOD}---\n{bad}---\n# nothing\n");
    let parsed = parse(&text);
    assert_eq!(parsed.len(), 2);
    assert!(parsed[0].is_ok(), "{:?}", parsed[0]);
    let line = text.lines().position(|line| line.contains("keepArchives")).unwrap() + 1;
    assert!(parsed[1].as_ref().unwrap_err().starts_with(&format!("/etc/d.yaml:{line}:3: spec.keepArchives: ")));
}

#[test]
fn one_bad_document_takes_nobody_with_it_and_the_second_of_a_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let named = |name: &str, target: &str| GOOD.replace("smartos-platform", name).replace("sdc-ipxe/smartos", target);
    let files = [
        ("a.yaml", named("one", "t/one")),
        ("b.yaml", "this: [is no document".to_owned()),
        ("c.yaml", format!("{}---\n{}", named("two", "t/two").replace("1h", "never"), named("three", "t/three"))),
        ("d.yaml", named("one", "t/four")),
        ("e.yaml", named("five", "t/three/below")),
        ("seedcache.yaml", "log: {level: debug}".to_owned()),
        ("notes.txt", "nothing".to_owned()),
    ];
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::write(dir.path().join("f.yaml"), [0xff, 0xfe]).unwrap();
    let catalog = load_catalog(dir.path()).unwrap();
    assert_eq!(catalog.artifacts.keys().map(ArtifactName::as_str).collect::<Vec<_>>(), ["one", "three"]);
    let refused: Vec<String> = catalog.refused.iter().map(|refused| error_chain(&*refused.error)).collect();
    assert_eq!(refused.len(), 5, "{refused:#?}");
    for (i, part) in ["b.yaml", "spec.refresh", "d.yaml:3:12: metadata.name: ", "t/three", "UTF-8"].iter().enumerate() {
        assert!(refused[i].contains(part), "{part}: {}", refused[i]);
    }
    assert_eq!(load_settings(dir.path()).unwrap().log.level, "debug");
}

#[test]
fn a_refused_document_leaves_the_last_good_one_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let first = load_catalog(dir.path()).unwrap();
    fs::write(&file, GOOD.replace("1h", "never")).unwrap();
    let second = Catalog::succeed(&first, load_catalog(dir.path()).unwrap());
    assert_eq!(first.artifacts, second.artifacts);
    assert_eq!(second.refused.len(), 1);
    fs::write(&file, "").unwrap();
    assert!(Catalog::succeed(&second, load_catalog(dir.path()).unwrap()).artifacts.is_empty());
}

#[test]
fn a_slip_that_hides_the_name_leaves_the_last_good_documents_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let second = GOOD.replace("smartos-platform", "other").replace("sdc-ipxe", "sdc-other");
    fs::write(&file, format!("{GOOD}---\n{second}")).unwrap();
    let first = load_catalog(dir.path()).unwrap();
    assert_eq!(first.artifacts.len(), 2);
    // Below the name: what stands above the slip says whose document it is. Above it, or no text at all: the file does.
    let below = GOOD.replace("  refresh: 1h", "  refresh: [1h");
    let above = GOOD.replace("metadata: {", "metadata: {{");
    for (text, name) in [(below.as_bytes(), Some("smartos-platform")), (above.as_bytes(), None), (b"\xff", None)] {
        fs::write(&file, [text, b"\n---\n", second.as_bytes()].concat()).unwrap();
        let next = load_catalog(dir.path()).unwrap();
        assert_eq!(next.refused[0].name.as_ref().map(ArtifactName::as_str), name, "{:?}", next.refused);
        assert_eq!(next.artifacts.len(), usize::from(text != b"\xff"));
        let next = Catalog::succeed(&first, next);
        assert_eq!(next.artifacts, first.artifacts);
        // Each document that goes on so tells why.
        let smartos = next.refusal_of(&"smartos-platform".parse().unwrap());
        assert!(smartos.is_some_and(|refused| refused.file == file), "{:?}", next.refused);
        assert_eq!(next.refusal_of(&"other".parse().unwrap()).is_some(), text == b"\xff");
        let raw = load_catalog(dir.path()).unwrap();
        assert!(next.says_the_same(&Catalog::succeed(&next, raw)), "read again, it says nothing new");
    }
    // Lines may end as they did on old systems.
    let all = format!("{below}---\n{second}").replace('\n', "\r");
    fs::write(&file, all).unwrap();
    let next = load_catalog(dir.path()).unwrap();
    assert_eq!(next.refused[0].name.as_ref().map(ArtifactName::as_str), Some("smartos-platform"), "{:?}", next.refused);
    assert_eq!(next.artifacts.len(), 1);
    // What is not refused but gone is gone.
    fs::write(&file, &second).unwrap();
    assert_eq!(Catalog::succeed(&first, load_catalog(dir.path()).unwrap()).artifacts.len(), 1);
}

#[test]
fn a_last_good_document_gives_way_where_another_took_its_target() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), GOOD).unwrap();
    let first = load_catalog(dir.path()).unwrap();
    fs::write(dir.path().join("a.yaml"), GOOD.replace("1h", "never")).unwrap();
    fs::write(dir.path().join("b.yaml"), GOOD.replace("smartos-platform", "heir")).unwrap();
    let next = Catalog::succeed(&first, load_catalog(dir.path()).unwrap());
    let seeds = &next.artifacts[&"heir".parse().unwrap()].seeds;
    assert_eq!(seeds[0].target, "sdc-ipxe/smartos".parse().unwrap());
    assert!(next.artifacts[&"smartos-platform".parse().unwrap()].seeds.is_empty());
}

#[test]
fn a_mounted_config_map_is_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = dir.path().join("..2026_01_01");
    fs::create_dir(&mounted).unwrap();
    fs::write(mounted.join("a.yaml"), GOOD).unwrap();
    std::os::unix::fs::symlink("..2026_01_01", dir.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let catalog = load_catalog(dir.path()).unwrap();
    assert!(catalog.refused.is_empty(), "{:?}", catalog.refused);
    let Source::Http(http) = &catalog.artifacts[&"smartos-platform".parse().unwrap()].source else { panic!() };
    // Beside the name as given: what the links lead to is gone after the next swap.
    assert_eq!(http.headers["X-Token"], HeaderValue::File { from_file: dir.path().join("secret/token") });
}

/// A document with a file source, or another one, and whatever else.
fn with_source(source: &str, rest: &str) -> String {
    format!(
        "apiVersion: {}\nkind: Artifact\nmetadata: {{name: a}}\nspec:\n  source: {source}\n{rest}",
        "seedcache.dev/v1alpha1"
    )
}

#[test]
fn paths_of_a_file_source_are_relative_to_the_document() {
    let text =
        with_source("{file: {path: 'o/{version}.tgz', latest: {path: ../latest}, checksums: {path: /sums}}}", "");
    let artifact = parse(&text).remove(0).unwrap();
    let Source::File(file) = &artifact.source else { panic!("{:?}", artifact.source) };
    assert_eq!(file.path, "/etc/o/{version}.tgz");
    assert_eq!(file.latest.as_ref().unwrap().url.as_deref(), Some("/etc/../latest"));
    assert_eq!(file.checksums.as_ref().unwrap().url, "/sums");
}

#[test]
fn sources_that_could_never_be_resolved_are_refused() {
    let versioned = "url: 'http://h/{version}'";
    for (source, rest, told) in [
        (format!("{{http: {{{versioned}}}}}"), "", "spec.source.http.url: nothing tells what `{version}` is"),
        (format!("{{http: {{{versioned}, latest: {{from: topDirectory}}}}}}"), "", "nothing tells"),
        (format!("{{http: {{{versioned}, latest: {{from: pointer}}}}}}"), "", "latest.from: `from: pointer` needs"),
        (format!("{{http: {{{versioned}, latest: {{from: checksums}}}}}}"), "", "latest.from: `from: checksums` needs"),
        (
            "{http: {url: 'http://h/{file}', checksums: {url: 'http://h/sums', file: 'x-{version}'}}}".into(),
            "",
            "checksums.file: `{version}` cannot stand here",
        ),
        ("{http: {url: 'http://h/{file}'}}".into(), "", "spec.source.http.url: `{file}` needs `checksums.file`"),
        (
            "{http: {url: 'http:///x'}}".into(),
            "  version: '1'\n  unpack: {format: none}\n  sha256: ''\n",
            "spec.sha256",
        ),
        ("{http: {url: 'http://h:99999/x'}}".into(), "", "no http or https address"),
        ("{file: {path: 'https://h/x'}}".into(), "", "spec.source.file.path: a file source takes paths"),
        ("{file: {path: ''}}".into(), "", "spec.source.file.path: the path is empty"),
        (
            "{file: {path: x, latest: {from: topDirectory}}}".into(),
            "  unpack: {format: none}\n",
            "spec.source.file.latest.from: `format: none`",
        ),
        ("{}".into(), "", "spec.source: one kind"),
        (
            "{file: {path: x}}".into(),
            "  unpack:\n    format: none\n    stripComponents: 1\n",
            "d.yaml:8:5: spec.unpack.stripComponents: `format: none`",
        ),
        ("{http: {url: 'http://h/x'}, file: {path: x}}".into(), "", "d.yaml:5:39: spec.source: more than one kind"),
        ("".into(), "", "spec.source: nothing is given; give one of http, file"),
    ] {
        let error = refusal(&with_source(&source, rest));
        assert!(error.contains(told), "{source} {rest}: {error}");
    }
    for (source, rest) in [
        (format!("{{http: {{{versioned}}}}}"), "  version: 1.10\n  pin: 1.9\n"),
        (format!("{{http: {{{versioned}, latest: {{url: 'http://h/latest'}}}}}}"), ""),
        ("{http: {url: 'http://h/{file}', latest: {pattern: 'x-(?<version>.*)'}, checksums: {url: 'http://h/s', file: 'x-*'}}}".into(), ""),
        ("{http: {url: 'http://h/a b'}}".into(), "  sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"),
        ("{file: {path: x}}".into(), "  unpack:\n  retain:\n  seeds:\n  keepArchive:\n  pin:\n"),
    ] {
        let text = with_source(&source, rest);
        assert!(parse(&text).remove(0).is_ok(), "{text}: {:?}", parse(&text));
    }
    let version = parse(&with_source("{file: {path: x}}", "  version: 1.10\n")).remove(0).unwrap().version.clone();
    assert_eq!(version, VersionWish::Exact("1.10".parse().unwrap()), "a version is text, not a number");
}

#[test]
fn two_seeds_of_a_document_are_apart_and_so_is_what_they_render() {
    let seeds = |list: &str| refusal(&with_source("{file: {path: x}}", &format!("  seeds: [{list}]\n")));
    assert!(seeds("{target: a}, {target: a/b}").contains("spec.seeds[1].target: the target overlaps with a,"));
    for (seed, told) in [
        ("render: [{path: ../x, template: ''}]", "spec.seeds[0].render[0].path: "),
        ("render: [{path: x, template: '', mode: '0999'}]", "render[0].mode: "),
        ("render: [{path: x, template: '', mode: '4755'}]", "\"4755\" is no mode"),
        ("render: [{path: \"x\\ny\", template: ''}]", "render[0].path: the path has a control character"),
        (
            "render: [{path: x, template: \"a\\n{{ b\"}]",
            "render[0].template: it cannot be rendered: line 2 of the template: syntax",
        ),
        (
            "render: [{path: x, template: \"\\n\\n{{ verison }}\"}]",
            "line 3 of the template: there is no \"verison\"; known are artifact,",
        ),
        (
            "render: [{path: x, template: '{{ values.tokn }}'}], values: {token: t}",
            "line 1 of the template: there is no value \"tokn\"",
        ),
        ("values: {a-b: x}", "spec.seeds[0].values.a-b: \"a-b\" is no name for a value"),
        ("values: {a: {fromFile: ''}}", "values.a.fromFile: the path is empty"),
        ("values: {a: {file: x}}", "values.a.file: there is no such field"),
        ("values: {a: [x]}", "values.a: a text, or `{fromFile: PATH}` belongs here"),
    ] {
        let error = seeds(&format!("{{target: a, {seed}}}"));
        assert!(error.contains(told), "{seed}: {error}");
    }
    let many: String = (0..33).map(|i| format!("{{path: f{i}, template: ''}},")).collect();
    assert!(seeds(&format!("{{target: a, render: [{many}]}}")).contains("at most 32 rendered files"));
    let twice = seeds("{target: a, render: [{path: x, template: ''}, {path: x/y, template: ''}]}");
    assert!(twice.contains("spec.seeds[0].render[1].path: "), "{twice}");
}

#[test]
fn hostile_texts_are_refused_and_cost_little() {
    let laughs = (1..9).fold("  a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
        let before = vec![format!("*a{}", i - 1); 9].join(", ");
        text + &format!("  a{i}: &a{i} [{before}]\n")
    });
    for text in [
        with_source("{file: {path: x}}", &laughs),
        with_source(&"[".repeat(100_000), ""),
        with_source(&"{a: ".repeat(100_000), ""),
        with_source(&format!("{{file: {{path: {}}}}}", "x, ".repeat(200_000)), ""),
        with_source("&s {file: *s}", ""),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
    ] {
        let error = refusal(&text);
        assert!(error.starts_with("/etc/d.yaml:") && error.len() < 1000, "{error}");
    }
    assert!(parse_documents(Path::new("d.yaml"), &"--- 1\n".repeat(10_001)).is_err());
}

#[test]
fn what_is_wrong_never_tells_a_secret_nor_steers_a_terminal() {
    for source in [
        "{http: {url: 'ftp://u:s3cret@h/x?sig=s3cret'}}",
        "{http: {url: 'http://u:s3cret@h:x/x?sig=s3cret'}}",
        "{http: {url: 'http://h/x', headers: {A: [s3cret]}}}",
        "{http: {url: 'http://h/x', headers: {A: {frmFile: s3cret}}}}",
        "{http: {url: 'http://h/x', headers: {A: {fromFile: [s3cret]}}}}",
        "{http: {url: 'http://h/x', headers: {A: {fromFile: x, prefix: s3cret}}}}",
        "{http: {url: 'http://h/x', headers: {A: \"s3cret\\n\"}}}",
        "{http: {url: 'http://h/x', mirrors: ['s3cret']}}",
    ] {
        let error = refusal(&with_source(source, ""));
        assert!(error.contains("spec.source.http.") && !error.contains("s3cret"), "{error}");
    }
    // Secrets may be all digits.
    for digits in ["4711", "47.11", "-4711"] {
        let error = refusal(&with_source(&format!("{{http: {{url: 'http://h/x', headers: {{A: {digits}}}}}}}"), ""));
        assert!(error.contains("headers.A") && !error.contains("47"), "{error}");
    }
    let steering = refusal(&with_source("{file: {path: x}}", "  \"a\\n\\e[31m\": 1\n"));
    assert!(!steering.contains(char::is_control), "{steering}");
}

#[test]
fn a_generation_changes_with_what_the_spec_says_and_with_nothing_else() {
    let generation = |text: &str| parse(text).remove(0).unwrap().generation;
    assert_eq!(
        generation(GOOD),
        generation(&GOOD.replace("labels: {a: b}", "labels: {}").replace("refresh: 1h", "refresh: 60m"))
    );
    // What nobody asked for is as if it were not there.
    let without = GOOD.replace("      connections: 4\n", "");
    for unsaid in ["connections: 1", "connections:"] {
        assert_eq!(generation(&without), generation(&GOOD.replace("connections: 4", unsaid)), "{unsaid}");
    }
    let without = GOOD.replace("      redirectsTo: [s3.internal, 10.0.0.5]\n", "");
    for unsaid in ["redirectsTo: []", "redirectsTo:"] {
        let said = GOOD.replace("redirectsTo: [s3.internal, 10.0.0.5]", unsaid);
        assert_eq!(generation(&without), generation(&said), "{unsaid}");
    }
    for (from, to) in [
        ("refresh: 1h", "refresh: 2h"),
        ("bytes: 4GiB", "bytes: 4294967297"),
        ("X-Plain: text", "X-Plain: other"),
        ("connections: 4", "connections: 3"),
        ("10.0.0.5", "10.0.0.6"),
        ("fromFile: secret/token", "fromFile: secret/other"),
        ("pin: 20260101T000000Z", "pin: 20260102T000000Z"),
        ("swap: exchange", "swap: symlink"),
        ("#!ipxe", "#!sh"),
        ("mirrors: ['https://mirror.example/{version}/{file}']", "mirrors: []"),
        ("owner: {uid: 0, gid: 0}", "owner: {uid: 0, gid: 1}"),
        ("keepArchive: false", "keepArchive: true"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        assert_ne!(generation(GOOD), generation(&GOOD.replace(from, to)), "{to}");
    }
}

#[test]
fn a_recipe_is_what_decides_the_tree() {
    let recipe = |text: &str| recipe_digest(&parse(text).remove(0).unwrap().unpack);
    assert_eq!(recipe(GOOD), recipe(&GOOD.replace("ratio: 200", "ratio: 100").replace("refresh: 1h", "refresh: 2h")));
    let [none, one, two] = [0, 1, 2].map(|n| GOOD.replace("stripComponents: 1", &format!("stripComponents: {n}")));
    assert_ne!(recipe(&one), recipe(&two));
    // One that strips nothing is what it was before a leading `.` counted as a component.
    let unpack =
        Unpack { limits: Limits::default(), require: Vec::new(), ..parse(&none).remove(0).unwrap().unpack.clone() };
    assert_eq!(recipe(&none), Digest::sha256(&serde_json::to_vec(&unpack).unwrap()));
    let unpack =
        Unpack { limits: Limits::default(), require: Vec::new(), ..parse(&one).remove(0).unwrap().unpack.clone() };
    assert_ne!(recipe(&one), Digest::sha256(&serde_json::to_vec(&unpack).unwrap()));
}

#[test]
fn settings_have_the_contracts_defaults_and_name_what_is_wrong() {
    let parse = |text: &str| parse_settings(Path::new("/etc/seedcache.yaml"), text);
    let defaults = parse("# nothing\n").unwrap();
    assert_eq!(defaults, Settings::default());
    let written = serde_saphyr::to_string(&defaults).unwrap();
    assert_eq!(parse(&written).unwrap(), defaults);
    for (text, told) in [
        ("fetch: {concurency: 2}", "seedcache.yaml:1:9: fetch.concurency: "),
        ("fetch:\n  concurrency: 0", "seedcache.yaml:2:3: fetch.concurrency: it must be at least 1"),
        ("store: {minFree: 120%}", "store.minFree"),
        ("listen: {http: here}", "listen.http: \"here\" is no address"),
        ("listen: {http: null, socket: null}", "nobody could reach"),
        ("listen: {http: '::1'}", "listen.http: \"::1\" is no address"),
        ("store: {root: ''}", "store.root: the path is empty"),
        ("store: {root: /a}\nseed: {root: /a/b}", "seedcache.yaml:2:8: seed.root: it lies in the store"),
        ("seed: {env: [HOME, A=B]}", "seed.env[1]: \"A=B\""),
        ("log: {level: '=,='}", "log.level"),
        ("log: {}\n---\nseed: {}\n", "seedcache.yaml:2:1: the settings are one document"),
        ("- a", "seedcache.yaml:1:1: fields"),
    ] {
        let error = error_chain(&parse(text).unwrap_err());
        assert!(error.contains(told), "{text}: {error}");
    }
    assert_eq!(parse("---\nstore:\n  # root: /elsewhere\nlog:\n").unwrap(), defaults, "all commented out");
    let mut settings = parse("store: {root: data}").unwrap();
    settings.apply(Some(Path::new("/r")), Some("[::1]:0".into()), Some("s".into())).unwrap();
    assert_eq!(settings.store.root, Path::new("/r/.seedcache"));
    assert!(settings.listen.socket.unwrap().is_absolute());
    let error = Settings::default().apply(None, Some("nowhere".into()), None).unwrap_err();
    assert!(error_chain(&error).starts_with("--listen: \"nowhere\" is no address"), "{error:?}");
    assert!(Settings::default().apply(Some(Path::new("")), None, None).is_err());
}

#[test]
fn the_shipped_configurations_are_sound() {
    for dir in ["config/quickstart", "config/node"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        load_settings(&dir).unwrap();
        let catalog = load_catalog(&dir).unwrap();
        assert!(catalog.refused.is_empty(), "{:?}", catalog.refused);
        assert!(!catalog.artifacts.is_empty());
    }
}

fn word() -> impl Strategy<Value = String> {
    // Words that YAML takes for something else are among them.
    prop_oneof!["[a-z0-9][a-z0-9.]{0,8}", Just("no".to_owned()), Just("1e3".to_owned()), Just("0x10".to_owned())]
        .prop_filter("names are components", |word| !word.contains("..") && !word.ends_with('.'))
}

prop_compose! {
    fn any_spec()(
        words in proptest::collection::vec(word(), 8),
        text in "\\PC{0,40}",
        lines in "([ -~]{0,12}\n){0,4}",
        numbers in proptest::collection::vec(1u32..u32::MAX, 6),
        choice in 0usize..4,
        flag in any::<bool>(),
    ) -> Spec {
        let path = |word: &str| word.parse::<crate::fs::RelPath>().unwrap();
        let version: VersionName = words[0].parse().unwrap();
        let seconds = |n: u32| Interval(std::time::Duration::from_secs(u64::from(n)));
        let headers = [("A".to_owned(), HeaderValue::Text(words[1].clone())),
            ("B".to_owned(), HeaderValue::File { from_file: format!("/{}", words[2]).into() })].into();
        let source = if flag {
            let url = format!("https://{}.example/{}", words[3], words[4]);
            let mirrors = vec![url.clone()];
            let (connections, redirects_to) = (Connections(1 + choice as u8), vec![format!("{}.example", words[5])]);
            Source::Http(HttpSource { url, latest: None, checksums: None, mirrors, headers, connections, redirects_to })
        } else {
            let latest = Latest { url: Some("/latest".into()), pattern: Some(words[5].replace('.', "\\.")), from: None };
            let checksums = Checksums { url: "/sums".into(), file: Some(format!("{}*", words[6])) };
            Source::File(FileSource { path: "/{file}".into(), latest: Some(latest), checksums: Some(checksums) })
        };
        let unpack = Unpack {
            format: [UnpackFormat::Auto, UnpackFormat::Tar, UnpackFormat::TarZst, UnpackFormat::TarBz2][choice],
            strip_components: numbers[0],
            prefix: flag.then(|| path(&words[1])),
            include: vec![words[2].clone()],
            require: vec![path(&words[1])],
            limits: Limits { bytes: Bytes(u64::from(numbers[1]) << choice), ratio: numbers[2], ..Limits::default() },
            owner: flag.then_some(Owner { uid: numbers[3], gid: numbers[4] }),
            ..Unpack::default()
        };
        let template = (lines + &text).replace(['{', '#'], "+");
        let render = vec![Render { path: path(&words[7]), template, mode: FileMode(numbers[5] & 0o777) }];
        let values = [("a".to_owned(), SeedValue::Text(words[6].clone())),
            ("b".to_owned(), SeedValue::File { from_file: format!("/{}", words[5]).into() })].into();
        let seed = SeedTarget { target: path(&words[0]), link: Link::Copy, swap: Some(Swap::InPlace), render, values };
        Spec {
            source,
            version: if flag { VersionWish::Exact(version.clone()) } else { VersionWish::Latest },
            sha256: flag.then(|| Digest::sha256(text.as_bytes())),
            sha512: None,
            pin: (!flag).then_some(version),
            refresh: seconds(numbers[5]),
            unpack,
            keep_archive: flag,
            retain: Retain { versions: numbers[0], age: seconds(numbers[1]) },
            seeds: vec![seed],
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse_documents(Path::new("d.yaml"), &text).map(|parsed| parsed.len());
        let _ = parse_settings(Path::new("seedcache.yaml"), &text);
    }

    #[test]
    fn no_cut_and_no_change_of_a_good_document_panics(at in 0..GOOD.len(), byte in 32u8..127) {
        let mut text = GOOD.to_owned();
        if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
            text.replace_range(at..=at, &char::from(byte).to_string());
        }
        for text in [text.as_str(), &GOOD[..at]] {
            for parsed in parse_documents(Path::new("d.yaml"), text).unwrap() {
                if let Err(error) = parsed.artifact {
                    prop_assert!(error_chain(&error).contains("d.yaml:"), "{}", error_chain(&error));
                }
            }
        }
    }

    #[test]
    fn any_spec_survives_being_written_down(spec in any_spec()) {
        let written = serde_saphyr::to_string(&serde_json::json!({
            "apiVersion": "seedcache.dev/v1alpha1", "kind": "Artifact", "metadata": { "name": "a" }, "spec": spec,
        })).unwrap();
        let read = parse(&written).remove(0);
        prop_assert_eq!(read.as_ref().map(|artifact| &artifact.spec), Ok(&spec), "{}", written);
        let json = serde_json::to_value(&spec).unwrap();
        prop_assert_eq!(serde_json::from_value::<Spec>(json).unwrap(), spec);
    }
}
