"use strict";
const make = (tag, props, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
};
const time = (text) => new Date(text).toLocaleString();
const state = (name) => make("span", { className: `state ${name}`, textContent: name });
const facts = (pairs) => make("dl", { className: "facts" }, ...pairs.filter(([, value]) => value)
  .map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
const table = (heads, rows) => rows.length === 0 ? null : make("div", { className: "scroll" }, make("table", {},
  make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { textContent: head, scope: "col" })))),
  make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) =>
    cell instanceof Node ? make("td", {}, cell) : make("td", { textContent: cell ?? "" })))))));
const progress = (doing) => {
  const bar = make("progress", { ariaLabel: "download" });
  if (doing.totalBytes) { bar.max = doing.totalBytes; bar.value = doing.bytes; }
  const of = doing.totalBytes ? ` of ${size(doing.totalBytes)}` : "";
  const what = `${doing.phase}${doing.version ? ` ${doing.version}` : ""}: ${size(doing.bytes)}${of}, ` +
    `${doing.entries} entries unpacked`;
  return make("div", {}, bar, make("div", { className: "soft", textContent: what }));
};
const artifact = (it) => {
  const base = `/v1/artifacts/${encodeURIComponent(it.name)}`;
  const files = (version) => make("a", { href: `${base}/versions/${encodeURIComponent(version)}/files/` },
    make("code", { textContent: version }));
  return make("section", { className: "artifact" },
    make("div", { className: "top" }, make("h2", {}, make("a", { href: base, textContent: it.name })), state(it.state),
      it.observedGeneration ? null : make("span", { className: "soft", textContent: "no document declares it" })),
    facts([["current", it.current], ["latest", it.latest], ["pin", it.pin],
      ["source answered", it.refreshedAt && time(it.refreshedAt)], ["next try", it.nextTry && time(it.nextTry)],
      ["failed tries", it.failures ? String(it.failures) : ""]]),
    it.lastError ? make("p", { className: "error", textContent: it.lastError }) : null,
    it.progress ? progress(it.progress) : null,
    table(["version", "size", "files", "published", "kept", "digest"], it.versions.map((version) => [
      files(version.version), make("span", { textContent: size(version.bytes) }), String(version.files),
      time(version.publishedAt), version.kept + (version.weak ? "; weakly verified" : ""),
      make("code", { textContent: version.digest.slice(0, 19), title: version.digest })])),
    table(["seed", "version", "mode", "state", "reason"], it.seeds.map((seed) => [
      make("code", { textContent: seed.target }), seed.version, seed.mode, state(seed.state), seed.reason])));
};
const show = async () => {
  const when = document.getElementById("when");
  try {
    const response = await fetch("/v1/artifacts", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!response.ok) { throw new Error(`the daemon answers ${response.status}`); }
    const artifacts = await response.json();
    const list = document.getElementById("artifacts");
    list.replaceChildren(...artifacts.map(artifact));
    if (artifacts.length === 0) { list.append(make("p", { textContent: "No artifact is declared or on this node." })); }
    const ready = artifacts.filter((it) => it.state === "Ready").length;
    when.textContent = `${ready} of ${artifacts.length} ready at ${new Date().toLocaleTimeString()}`;
    when.className = "";
  } catch (error) {
    when.textContent = `no answer: ${error.message}; what is shown may be old`;
    when.className = "error";
  }
  setTimeout(show, document.hidden ? 15000 : 2000);
};
show();
