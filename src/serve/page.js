"use strict";
const make = (tag, props, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
// Two or three digits in SI units, as the command line writes them.
const size = (bytes) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit && bytes < 9.95 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
};
const about = (seconds) => {
  if (seconds < 60) { return `${Math.floor(seconds)} s`; }
  if (seconds < 3600) { return `${Math.round(seconds / 60)} min`; }
  if (seconds < 86400) { return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`; }
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
};
const time = (text) => {
  const seconds = (new Date(text) - Date.now()) / 1000;
  const words = seconds >= 1 ? `in ${about(seconds)}` : seconds > -1 ? "now" : `${about(-seconds)} ago`;
  return make("time", { dateTime: text, title: new Date(text).toLocaleString(), textContent: words });
};
const state = (name) => make("span", { className: `state ${name}`, textContent: name });
const facts = (pairs) => make("dl", { className: "facts" }, ...pairs.filter(([, value]) => value)
  .map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", {}, value))));
// Each cell knows its column's head: narrow windows show rows as lists of both.
const table = (heads, rows) => rows.length === 0 ? null : make("table", {},
  make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { textContent: head, scope: "col" })))),
  make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell, column) => {
    const made = make("td", {}, cell ?? "");
    made.dataset.head = heads[column];
    return made;
  })))));
const progress = (doing) => {
  const bar = make("progress", { ariaLabel: doing.phase });
  if (doing.totalBytes) { bar.max = doing.totalBytes; bar.value = doing.bytes; }
  const share = doing.totalBytes ? ` of ${size(doing.totalBytes)} (${Math.floor(100 * doing.bytes / doing.totalBytes)}%)` : "";
  const what = `${doing.phase}${doing.version ? ` ${doing.version}` : ""}: ${size(doing.bytes)}${share}, ` +
    `${doing.entries} ${doing.entries === 1 ? "entry" : "entries"} unpacked`;
  return make("div", {}, bar, make("div", { className: "soft", textContent: what }));
};
const mode = { hardlink: "hard link" };
const artifact = (it) => {
  const base = `/v1/artifacts/${encodeURIComponent(it.name)}`;
  const files = (version) => make("a", { href: `${base}/versions/${encodeURIComponent(version)}/files/` },
    make("code", { textContent: version }));
  const tries = it.failures > 1 ? `${it.failures} in a row` : "";
  return make("section", { className: "artifact" },
    make("div", { className: "top" }, make("h2", {}, make("a", { href: base, textContent: it.name })), state(it.state),
      it.observedGeneration ? null : make("span", { className: "soft",
        textContent: it.lastError && !it.lastErrorAt ? "its document is refused" : "no document declares it" })),
    facts([["current", it.current], ["latest", it.latest], ["pin", it.pin],
      ["source answered", it.refreshedAt && time(it.refreshedAt)], ["next try", it.nextTry && time(it.nextTry)],
      ["failed", it.lastErrorAt && time(it.lastErrorAt)], ["failed tries", tries]]),
    it.lastError ? make("p", { className: "error", textContent: it.lastError }) : null,
    it.progress ? progress(it.progress) : null,
    table(["version", "size", "files", "published", "digest", "kept"], it.versions.map((version) => [
      files(version.version), size(version.bytes), String(version.files), time(version.publishedAt),
      make("code", { textContent: version.digest.replace(/^.*:/, "").slice(0, 12), title: version.digest }),
      make("span", { className: "free", textContent: version.kept + (version.weak ? "; weakly verified" : "") })])),
    table(["seed", "state", "version", "mode", "reason"], it.seeds.map((seed) => [
      make("code", { textContent: seed.target + (seed.byHandle ? " (in a pod)" : "") }), state(seed.state),
      seed.version && make("code", { textContent: seed.version }), mode[seed.mode] ?? seed.mode,
      seed.reason && make("span", { className: "free soft", textContent: seed.reason })])));
};
const none = () => make("p", { className: "none" }, "Nothing is declared and nothing is on this node. Put an Artifact ",
  "document into the directory that ", make("code", { textContent: "serve --config" }), " names; it is taken up at once.");
const show = async () => {
  const when = document.getElementById("when");
  try {
    const response = await fetch("/v1/artifacts", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!response.ok) { throw new Error(`the daemon answers ${response.status}`); }
    const artifacts = await response.json();
    document.getElementById("artifacts").replaceChildren(...artifacts.length ? artifacts.map(artifact) : [none()]);
    const count = (name) => artifacts.filter((it) => it.state === name).length;
    const others = ["Warming", "Pending", "Failed"].filter(count).map((name) => `, ${count(name)} ${name.toLowerCase()}`);
    const said = artifacts.length ? `${count("Ready")} of ${artifacts.length} ready${others.join("")}` : "nothing here yet";
    when.textContent = `${said} at ${new Date().toLocaleTimeString()}`;
    when.className = "";
  } catch (error) {
    when.textContent = `no answer: ${error.message}; what is shown may be old`;
    when.className = "error";
  }
  setTimeout(show, document.hidden ? 15000 : 2000);
};
show();
