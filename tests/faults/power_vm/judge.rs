//! What of what a machine said after a power loss cannot be, where this was acknowledged before.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What a machine said from its start to its loss.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) lines: Vec<String>,
    /// So many of them were said while what was written got to the disk.
    pub(crate) certain: usize,
}

/// What was acknowledged by a machine, over all its losses.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    pub(crate) versions: BTreeSet<String>,
    /// More than one while a change is not acknowledged.
    pins: BTreeSet<Option<String>>,
    /// Of the one who takes leases, the same.
    leases: BTreeSet<Option<String>>,
    /// How many things were acknowledged.
    pub(crate) count: usize,
}

impl Default for Acknowledged {
    fn default() -> Self {
        let none = || BTreeSet::from([None]);
        Self { versions: BTreeSet::new(), pins: none(), leases: none(), count: 0 }
    }
}

/// What is wrong; what was said becomes known. `trees` has what the tree of each version digests to.
pub(crate) fn judge(trees: &BTreeMap<String, String>, told: &Told, known: &mut Acknowledged) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut on_disk = BTreeSet::new();
    let demanded = known.versions.clone();
    for (at, line) in told.lines.iter().enumerate() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "disk" => {
                let (version, digest) = rest.split_once(' ').unwrap_or((rest, ""));
                on_disk.insert(version.to_owned());
                if trees.get(version).map(String::as_str) != Some(digest) {
                    wrong.push(format!("{version} is not whole on the disk"));
                }
            }
            "current" if !trees.values().any(|digest| digest == rest) => {
                wrong.push("what current/ leads to is not whole".to_owned());
            }
            "current" => {}
            "state" => wrong.extend(judge_state(rest, known)),
            "seeded" => {
                let (said, digest) = rest.rsplit_once(" -- ").unwrap_or((rest, ""));
                let answer = serde_json::from_str::<Value>(said).unwrap_or_default();
                let version = answer["version"].as_str();
                if version.and_then(|version| trees.get(version)).map(String::as_str) != Some(digest) {
                    wrong.push(format!("a target is not {version:?} after its seed: {said:?}"));
                }
            }
            "failed" => wrong.push(rest.to_owned()),
            "checked" => wrong.extend(demanded.difference(&on_disk).map(|version| format!("{version} is lost"))),
            _ => known.hear(word, rest, at < told.certain),
        }
    }
    if !told.lines.iter().any(|line| line == "checked") {
        wrong.push(format!("it did not come up: {:?}", told.lines));
    }
    wrong
}

/// What the daemon said once it was up, without its origin; it was read from the disk, so it is demanded from now on.
fn judge_state(json: &str, known: &mut Acknowledged) -> Vec<String> {
    let Ok(state) = serde_json::from_str::<Value>(json) else { return vec![format!("no state: {json}")] };
    let state = if state.is_array() { state[0].clone() } else { state };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut wrong = Vec::new();
    let mut one_of = |what: &str, found: Option<String>, known: &mut BTreeSet<Option<String>>| {
        if !known.contains(&found) {
            wrong.push(format!("the {what} is {found:?}, acknowledged was one of {known:?}"));
        }
        *known = BTreeSet::from([found]);
    };
    one_of("pin", text(&state["pin"]), &mut known.pins);
    one_of("lease", text(&state["leases"][0]["version"]), &mut known.leases);
    let rows = state["versions"].as_array().into_iter().flatten();
    let listed: BTreeSet<String> = rows.filter_map(|row| text(&row["version"])).collect();
    wrong.extend(known.versions.difference(&listed).map(|version| format!("{version} is not listed")));
    known.versions.extend(listed);
    wrong
}

impl Acknowledged {
    /// What is begun may have happened; what is done has, unless the disk kept nothing any more.
    fn hear(&mut self, word: &str, of: &str, certain: bool) {
        let of = Some(of.to_owned()).filter(|of| !of.is_empty());
        match word {
            "pinning" | "unpinning" => drop(self.pins.insert(of)),
            "leasing" => drop(self.leases.insert(of)),
            "removing" => drop(self.versions.remove(&of.unwrap_or_default())),
            "pinned" | "unpinned" | "leased" | "version" if !certain => {}
            "pinned" | "unpinned" => (self.pins, self.count) = (BTreeSet::from([of]), self.count + 1),
            "leased" => (self.leases, self.count) = (BTreeSet::from([of]), self.count + 1),
            "version" => {
                self.count += usize::from(self.versions.insert(of.unwrap_or_default()));
            }
            other => panic!("a machine said what is not known: {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trees() -> BTreeMap<String, String> {
        [("v1".to_owned(), "one".to_owned()), ("v2".to_owned(), "two".to_owned())].into()
    }

    fn hear(known: &mut Acknowledged, lines: &[&str], certain: usize) -> Vec<String> {
        judge(&trees(), &Told { lines: lines.iter().map(|line| (*line).to_owned()).collect(), certain }, known)
    }

    /// The state as a daemon says it.
    fn state(versions: &[&str], pin: Option<&str>, lease: Option<&str>) -> String {
        let versions: Vec<Value> = versions.iter().map(|version| serde_json::json!({"version": version})).collect();
        let leases: Vec<Value> = lease.iter().map(|version| serde_json::json!({"version": version})).collect();
        format!("state {}", serde_json::json!([{"versions": versions, "pin": pin, "leases": leases}]))
    }

    const WORK: &[&str] =
        &["checked", "version v1", "version v2", "pinning v1", "pinned v1", "leasing v2", "leased v2"];

    #[test]
    fn what_was_acknowledged_is_demanded() {
        let after = |lines: &[&str]| {
            let mut known = Acknowledged::default();
            assert_eq!(hear(&mut known, WORK, WORK.len()), Vec::<String>::new());
            assert_eq!(known.count, 4);
            hear(&mut known, lines, lines.len())
        };
        let (one, two) = ("disk v1 one", "disk v2 two");
        let all = state(&["v1", "v2"], Some("v1"), Some("v2"));
        assert_eq!(after(&[one, two, "current one", &all, "checked"]), Vec::<String>::new());
        for (lines, wrong) in [
            (&[two, &all, "checked"][..], "v1 is lost"),
            (&[one, "disk v2 half", &all, "checked"], "v2 is not whole on the disk"),
            (&[one, two, "current half", &all, "checked"], "what current/ leads to is not whole"),
            (&[one, two, &state(&["v1"], Some("v1"), Some("v2")), "checked"], "v2 is not listed"),
            (&[one, two, &state(&["v1", "v2"], None, Some("v2")), "checked"], "the pin is None"),
            (&[one, two, &state(&["v1", "v2"], Some("v1"), None), "checked"], "the lease is None"),
            (&[one, two, &all, "seeded {\"version\":\"v1\"} -- two", "checked"], "a target is not Some(\"v1\")"),
            (&[one, two, &all, "seeded no answer -- ", "checked"], "a target is not None"),
            (&[one, two, &all, "failed verify", "checked"], "verify"),
            (&[one, two, &all], "it did not come up"),
        ] {
            let found = after(lines);
            assert!(found.len() == 1 && found[0].starts_with(wrong), "{lines:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_said_once_nothing_is_kept_may_have_happened_or_not() {
        let both = [("v1", "v1"), ("v2", "v2")];
        for (pin, lease) in both {
            let mut known = Acknowledged::default();
            hear(&mut known, WORK, WORK.len());
            let more = ["checked", "pinning v2", "pinned v2", "leasing v1", "leased v1", "removing v2", "version v2"];
            hear(&mut known, &more, 1);
            let said = state(&["v1"], Some(pin), Some(lease));
            assert_eq!(hear(&mut known, &["disk v1 one", &said, "checked"], 3), ["v1 is lost"; 0]);
            // What was seen once does not change by itself.
            let other = state(&["v1"], None, Some(lease));
            assert_eq!(hear(&mut known, &["disk v1 one", &other, "checked"], 3).len(), 1);
        }
    }
}
