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
          template: |
            #!ipxe
            --- not a document's end
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
    let Source::Http(http) = &artifact.source else { panic!("{:?}", artifact.source) };
    assert_eq!(http.headers["X-Token"], HeaderValue::File { from_file: "/etc/secret/token".into() });
    assert!(!format!("{artifact:?}").contains("text"), "header values are not shown");
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_field() {
    for (from, to, told) in [
        ("  keepArchive:", "  keepArchives:", ["spec.keepArchives", "unknown field"]),
        ("        url: https://origin.example/SmartOS/latest", "        urll: x", ["urll", "unknown"]),
        ("ratio: 200", "ratio: many", ["spec.unpack.limits.ratio", "invalid"]),
        ("bytes: 4GiB", "bytes: 4 parrots", ["spec.unpack.limits.bytes", "like `4GiB`"]),
        ("refresh: 1h", "refresh: soon", ["spec.refresh", "like `30s`"]),
        ("pin: 20260101T000000Z", "pin: ../x", ["spec.pin", "no version name"]),
        ("name: smartos-platform", "name: Smart_OS", ["metadata.name", "no artifact name"]),
        ("kind: Artifact", "kind: ConfigMap", ["kind", "write Artifact"]),
        ("target: sdc-ipxe/smartos", "target: ../etc", ["spec.seeds[0].target", "`..`"]),
        ("target: sdc-ipxe/smartos", "target: .seedcache/x", ["spec.seeds[0].target", "store"]),
        ("(?<version>", "(?<version", ["spec.source.http.latest.pattern", "regular expression"]),
        ("(?<version>", "(?<stamp>", ["pattern", "`version`"]),
        ("'platform-*.tgz'", "'platform-[.tgz'", ["checksums.file", "glob"]),
        ("{version}/{file}\n", "{stamp}/{file}\n", ["spec.source.http.url", "`{stamp}`"]),
        ("        file: 'platform-*.tgz'\n", "", ["mirrors[0]", "checksums.file"]),
        ("https://mirror", "ftp://mirror", ["mirrors[0]", "http or https"]),
        ("X-Plain: text", "X Plain: text", ["headers", "header name"]),
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
    for (i, part) in ["b.yaml", "spec.refresh", "a.yaml:1", "t/three", "UTF-8"].iter().enumerate() {
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
fn a_generation_changes_with_what_the_spec_says_and_with_nothing_else() {
    let generation = |text: &str| parse(text).remove(0).unwrap().generation;
    assert_eq!(
        generation(GOOD),
        generation(&GOOD.replace("labels: {a: b}", "labels: {}").replace("refresh: 1h", "refresh: 60m"))
    );
    assert_ne!(generation(GOOD), generation(&GOOD.replace("refresh: 1h", "refresh: 2h")));
}

#[test]
fn a_recipe_is_what_decides_the_tree() {
    let recipe = |text: &str| recipe_digest(&parse(text).remove(0).unwrap().unpack);
    assert_eq!(recipe(GOOD), recipe(&GOOD.replace("ratio: 200", "ratio: 100").replace("refresh: 1h", "refresh: 2h")));
    assert_ne!(recipe(GOOD), recipe(&GOOD.replace("stripComponents: 1", "stripComponents: 2")));
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
    ] {
        let error = error_chain(&parse(text).unwrap_err());
        assert!(error.contains(told), "{text}: {error}");
    }
    let mut settings = parse("store: {root: data}").unwrap();
    settings.apply(Some(Path::new("/r")), Some("[::1]:0".into()), Some("s".into())).unwrap();
    assert_eq!(settings.store.root, Path::new("/r/.seedcache"));
    assert!(settings.listen.socket.unwrap().is_absolute());
    assert!(Settings::default().apply(None, Some("nowhere".into()), None).is_err());
}

#[test]
fn the_schema_names_every_field() {
    let schema = schema().to_string();
    for field in ["apiVersion", "stripComponents", "keepArchive", "fromFile", "inPlace", "tar.zst", "topDirectory"] {
        assert!(schema.contains(field), "{field}");
    }
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
}
