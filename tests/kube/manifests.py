#!/usr/bin/env python3
"""Checks what daemonset/ renders: against the schemas of Kubernetes, against itself, and against the daemon.

Run by tests/run, which installs what it needs (kubectl, kubernetes-validate). SEEDCACHE is the binary to ask.
"""
import functools
import http.client
import json
import os
import pathlib
import re
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
import unittest

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent.parent.parent
DAEMONSET = HERE / "daemonset"
SEEDCACHE = os.environ.get("SEEDCACHE", str(HERE / "target/release/seedcache"))
# The oldest that is supported, the one that clusters are told of, and the newest that the validator knows.
VERSIONS = ["1.30", "1.36", kubernetes_validate.latest_version()]
NAME_AND_INSTANCE = {"app.kubernetes.io/name", "app.kubernetes.io/instance"}


def kustomizations():
    """Every directory that is applied by itself; a component is rendered as part of those that name it."""
    for file in sorted(DAEMONSET.rglob("kustomization.yaml")):
        if yaml.safe_load(file.read_text())["kind"] == "Kustomization":
            yield file.parent


@functools.cache
def render(directory):
    out = subprocess.run(["kubectl", "kustomize", directory], check=True, capture_output=True, text=True).stdout
    return [document for document in yaml.safe_load_all(out) if document]


def everywhere(check):
    """Runs a check on each rendered directory by its own name."""

    @functools.wraps(check)
    def wrapped(self):
        for directory in kustomizations():
            with self.subTest(str(directory.relative_to(HERE))):
                check(self, render(directory))

    return wrapped


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def pods(documents):
    """(workload, pod spec, pod labels) of all that becomes pods."""
    for document in of_kind(documents, "Pod"):
        yield document, document["spec"], document["metadata"].get("labels", {})
    for document in of_kind(documents, "Deployment", "DaemonSet"):
        template = document["spec"]["template"]
        yield document, template["spec"], template["metadata"]["labels"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def matches(selector, labels):
    return selector.items() <= labels.items()


def ask(path, socket_path, method="GET", body=None):
    connection = http.client.HTTPConnection("seedcache")
    with socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(str(socket_path))
        connection.request(method, path, body, {"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


class Rendered(unittest.TestCase):
    @everywhere
    def test_fits_the_schemas(self, documents):
        for version in VERSIONS:
            for document in documents:
                if document["apiVersion"].startswith("monitoring.coreos.com/"):
                    continue
                kubernetes_validate.validate(document, version, strict=True)

    @everywhere
    def test_custom_resources_are_whole(self, documents):
        for document in of_kind(documents, "ServiceMonitor"):
            self.assertEqual(document["apiVersion"], "monitoring.coreos.com/v1")
            selector = document["spec"]["selector"]["matchLabels"]
            served = [s for s in of_kind(documents, "Service") if matches(selector, s["metadata"]["labels"])]
            self.assertEqual(len(served), 1)
            names = {port["name"] for port in served[0]["spec"]["ports"]}
            for endpoint in document["spec"]["endpoints"]:
                self.assertIn(endpoint["port"], names)
        for document in of_kind(documents, "PrometheusRule"):
            self.assertEqual(document["apiVersion"], "monitoring.coreos.com/v1")
            for group in document["spec"]["groups"]:
                names = [rule["alert"] for rule in group["rules"]]
                self.assertEqual(len(names), len(set(names)))
                for rule in group["rules"]:
                    self.assertLessEqual(rule.keys(), {"alert", "expr", "for", "labels", "annotations"})
                    self.assertIn(rule["labels"]["severity"], {"critical", "warning", "info"})
                    self.assertEqual(rule["annotations"].keys(), {"summary", "description"})
                    self.assertEqual(rule["expr"].count("("), rule["expr"].count(")"))

    @everywhere
    def test_selectors_find_their_pods(self, documents):
        for workload, _, labels in pods(documents):
            if workload["kind"] != "Pod":
                self.assertTrue(matches(workload["spec"]["selector"]["matchLabels"], labels))
                self.assertLessEqual(workload["spec"]["selector"]["matchLabels"].keys(), NAME_AND_INSTANCE)
        for service in of_kind(documents, "Service"):
            selector = service["spec"]["selector"]
            found = [spec for _, spec, labels in pods(documents) if matches(selector, labels)]
            self.assertEqual(len(found), 1, service["metadata"]["name"])
            ports = {port["name"] for c in found[0]["containers"] for port in c.get("ports", [])}
            for port in service["spec"]["ports"]:
                self.assertIn(port["targetPort"], ports)
        for policy in of_kind(documents, "NetworkPolicy"):
            selector = policy["spec"]["podSelector"]["matchLabels"]
            self.assertTrue(any(matches(selector, labels) for _, _, labels in pods(documents)))

    @everywhere
    def test_volumes_mounts_and_ports_agree(self, documents):
        for _, spec, _ in pods(documents):
            volumes = [volume["name"] for volume in spec.get("volumes", [])]
            mounted = set()
            for container in containers(spec):
                ports = {port["name"] for port in container.get("ports", [])}
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    if "httpGet" in container.get(probe, {}):
                        self.assertIn(container[probe]["httpGet"]["port"], ports)
                paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
                self.assertEqual(len(paths), len(set(paths)))
                mounted.update(mount["name"] for mount in container.get("volumeMounts", []))
            self.assertEqual(sorted(volumes), sorted(mounted))

    @everywhere
    def test_what_is_named_is_there(self, documents):
        def there(kind, namespace):
            return {
                document["metadata"]["name"]
                for document in of_kind(documents, kind)
                if document["metadata"].get("namespace") == namespace
            }

        for document in documents:
            namespace = document["metadata"].get("namespace")
            if namespace:
                self.assertIn(namespace, there("Namespace", None), document["metadata"]["name"])
        for workload, spec, _ in pods(documents):
            namespace = workload["metadata"]["namespace"]
            maps = [volume["configMap"] for volume in spec.get("volumes", []) if "configMap" in volume]
            for volume in spec.get("volumes", []):
                maps += [s["configMap"] for s in volume.get("projected", {}).get("sources", [])]
            for container in containers(spec):
                maps += [source["configMapRef"] for source in container.get("envFrom", [])]
            for reference in maps:
                if not reference.get("optional"):
                    self.assertIn(reference["name"], there("ConfigMap", namespace))
            if "serviceAccountName" in spec:
                self.assertIn(spec["serviceAccountName"], there("ServiceAccount", namespace))
            if "priorityClassName" in spec:
                self.assertIn(spec["priorityClassName"], there("PriorityClass", None))

    @everywhere
    def test_namespaces_admit_their_pods(self, documents):
        levels = {
            ns["metadata"]["name"]: ns["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
            for ns in of_kind(documents, "Namespace")
        }
        for workload, spec, _ in pods(documents):
            needs = any("hostPath" in volume for volume in spec.get("volumes", [])) or "hostNetwork" in spec
            for container in containers(spec):
                needs |= any("hostPort" in port for port in container.get("ports", []))
                needs |= bool(container.get("securityContext", {}).get("capabilities", {}).get("add"))
            expected = "privileged" if needs else "baseline"
            self.assertEqual(levels[workload["metadata"]["namespace"]], expected)

    @everywhere
    def test_pods_are_hardened(self, documents):
        for workload, spec, _ in pods(documents):
            self.assertIs(spec["automountServiceAccountToken"], False)
            ours = workload["metadata"]["name"] == "seedcache"
            for container in containers(spec):
                self.assertRegex(container["image"], r"^[a-z0-9/.-]+:[0-9][^:]*$", "an image has an exact tag")
                self.assertNotIn("latest", container["image"])
                if container["image"].startswith("nginx:"):
                    continue
                context = spec.get("securityContext", {}) | container["securityContext"]
                self.assertEqual(context["seccompProfile"]["type"], "RuntimeDefault")
                self.assertIs(context["allowPrivilegeEscalation"], False)
                self.assertIs(context["readOnlyRootFilesystem"], True)
                self.assertNotIn("privileged", {k for k, v in context.items() if v is True})
                added = context["capabilities"].get("add", [])
                self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                self.assertEqual(added, ["DAC_READ_SEARCH", "DAC_OVERRIDE", "CHOWN", "FOWNER"] if ours else [])
                # Whoever only asks sees the socket's directory, and cannot change it.
                for mount in container.get("volumeMounts", []):
                    if mount["mountPath"] == "/run/seedcache" and not ours:
                        self.assertIs(mount["readOnly"], True)

    @everywhere
    def test_host_paths_are_those_that_are_known(self, documents):
        for workload, spec, _ in pods(documents):
            found = {volume["hostPath"]["path"] for volume in spec.get("volumes", []) if "hostPath" in volume}
            if workload["metadata"]["name"] == "seedcache":
                self.assertEqual(found, {"/mnt/kube-data", "/run/seedcache"})
            for path in found - {"/run/seedcache", "/opt/cni", "/mnt/kube-data"}:
                self.assertRegex(path, "^/mnt/kube-data/[a-z]")


class DaemonSet(unittest.TestCase):
    def test_its_end_comes_before_the_kubelets(self):
        (daemon,) = of_kind(render(DAEMONSET / "base"), "DaemonSet")
        (drain,) = re.findall(r"const DRAIN: Duration = Duration::from_secs\((\d+)\)", (HERE / "src/node.rs").read_text())
        self.assertGreater(daemon["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], int(drain) + 5)
        self.assertEqual(daemon["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], 0)

    def test_documents_change_in_place_and_settings_roll(self):
        names = [m["metadata"]["name"] for m in of_kind(render(DAEMONSET / "overlays/smartos"), "ConfigMap")]
        self.assertIn("seedcache-documents", names)
        self.assertTrue(any(re.fullmatch(r"seedcache-settings-[a-z0-9]{10}", name) for name in names), names)

    def test_the_version_is_the_packages(self):
        (version,) = re.findall(r'^version = "(.*)"$', (HERE / "Cargo.toml").read_text(), re.M)
        for directory in kustomizations():
            for workload, spec, labels in pods(render(directory)):
                self.assertEqual(labels.get("app.kubernetes.io/version", version), version)
                for container in containers(spec):
                    if container["image"].startswith("seedcache"):
                        self.assertEqual(container["image"], f"seedcache:{version}", workload["metadata"]["name"])


class Told(unittest.TestCase):
    """What the manifests tell the daemon and its client."""

    @everywhere
    def test_documents_and_settings_are_well(self, documents):
        maps = [m for m in of_kind(documents, "ConfigMap") if re.match("seedcache-(documents|settings)", m["metadata"]["name"])]
        if not maps:
            return
        with tempfile.TemporaryDirectory() as directory:
            for config in maps:
                for name, text in config.get("data", {}).items():
                    pathlib.Path(directory, name).write_text(text)
            checked = subprocess.run([SEEDCACHE, "check", directory], capture_output=True, text=True)
            self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
            self.assertIn("all well", checked.stdout)

    @everywhere
    def test_commands_have_the_options_that_they_use(self, documents):
        def command(words):
            options = [word.split("=")[0] for word in words if word.startswith("--")]
            told = subprocess.run([SEEDCACHE, words[0], "--help"], capture_output=True, text=True, check=True).stdout
            for option in options:
                known = re.findall(r"(?m)^\s+(?:-\w, )?(--[a-z-]+)", told)
                self.assertIn(option, known, f"of seedcache {words[0]}")

        for _, spec, _ in pods(documents):
            for container in containers(spec):
                if container["image"].startswith("seedcache"):
                    command(container["args"])
                    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                        if "exec" in container.get(probe, {}):
                            words = container[probe]["exec"]["command"]
                            self.assertEqual(words[0], "seedcache")
                            command(words[1:])


class Stalled(socketserver.BaseRequestHandler):
    """An origin that sends half of an archive and then nothing: a download under way for as long as one likes."""

    def handle(self):
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")
        self.server.ended.wait()


class Watched(unittest.TestCase):
    """What alerts and dashboard name is what the daemon shows."""

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.origin = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stalled)
        cls.origin.ended = threading.Event()
        threading.Thread(target=cls.origin.serve_forever, daemon=True).start()
        root = pathlib.Path(cls.directory.name)
        (root / "config").mkdir()
        (root / "data").write_text("data")
        (root / "config/seedcache.yaml").write_text("{}")
        (root / "config/data.yaml").write_text(
            "apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {name: data}\n"
            "spec: {source: {file: {path: ../data}}, unpack: {format: none}, seeds: [{target: data}]}\n"
            "---\napiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {name: stalled}\n"
            f"spec: {{source: {{http: {{url: 'http://127.0.0.1:{cls.origin.server_address[1]}/x'}}}}, version: v1}}\n"
        )
        cls.socket = root / "socket"
        words = ["serve", "--config", root / "config", "--root", root / "kube-data", "--socket", cls.socket]
        cls.daemon = subprocess.Popen([SEEDCACHE, *words, "--listen", "127.0.0.1:0"], stderr=subprocess.DEVNULL)
        cls.addClassCleanup(cls.end)
        deadline = time.monotonic() + 30
        while not cls.busy():
            if time.monotonic() > deadline:
                raise AssertionError("the daemon does not begin to download")
            time.sleep(0.05)
        status, answer = ask("/v1/artifacts/data/seed", cls.socket, "POST", json.dumps({"target": "data", "wait": "30s"}))
        assert status == 200, answer

    @classmethod
    def busy(cls):
        try:
            return "progress" in ask("/v1/artifacts/stalled", cls.socket)[1]
        except OSError:
            return False

    @classmethod
    def end(cls):
        cls.daemon.terminate()
        cls.daemon.wait(30)
        cls.origin.ended.set()
        cls.origin.shutdown()
        cls.origin.server_close()
        cls.directory.cleanup()

    def test_metrics_are_shown(self):
        documents = render(DAEMONSET / "overlays/monitoring")
        expressions = [
            rule["expr"]
            for document in of_kind(documents, "PrometheusRule")
            for group in document["spec"]["groups"]
            for rule in group["rules"]
        ]
        (dashboard,) = [m for m in of_kind(documents, "ConfigMap") if m["metadata"]["name"] == "seedcache-dashboard"]
        dashboard = json.loads(dashboard["data"]["seedcache.json"])
        expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        expressions += [variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
        named = set().union(*(re.findall(r"\bseedcache_\w+", expression) for expression in expressions))
        self.assertGreater(len(named), 15)
        _, shown = ask("/metrics", self.socket)
        families = dict(re.findall(r"(?m)^# TYPE (\w+) (\w+)$", shown))
        suffixes = {"counter": ["_total"], "gauge": [""], "info": ["_info"], "histogram": ["_bucket", "_sum", "_count"]}
        names = {name + suffix for name, kind in families.items() for suffix in suffixes[kind]}
        self.assertLessEqual(named, names)

    def test_labels_are_shown(self):
        _, shown = ask("/metrics", self.socket)
        for labels in ['artifact_state{artifact="data",state="Ready"} 1', "seeds_asked_total{", "_requests_total{method="]:
            self.assertIn(labels, shown)


if __name__ == "__main__":
    unittest.main(verbosity=2)
