#!/usr/bin/env python3
"""The image, the DaemonSet's pod and every example's pods, run in containers.

Run by tests/run, as root. SEEDCACHE_IMAGE is the archive that daemonset/build-image made.
"""
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import threading
import unittest

from node import (
    DAEMONSET, HERE, KUBE_DATA, TLS_ORIGIN, Node, archive, as_pods, at_this_origin, enter_namespaces, moment, render, sha1_line,
    wait_for,
)

IMAGE = os.environ.get("SEEDCACHE_IMAGE", str(HERE / "target/seedcache-image.tar"))
STAMPS = ["20260101T000000Z", "20260201T000000Z", "20260301T000000Z"]
QEMU = pathlib.Path(os.environ.get("SEEDCACHE_QEMU", HERE / "target/qemu"))
STORE = KUBE_DATA / ".seedcache/versions"
node = None


def setUpModule():
    global node
    node = Node()
    node.make_images(IMAGE)


def tearDownModule():
    node.close()


def boot_archive(stamp):
    """8 MiB that differ from version to version."""
    return hashlib.sha256(stamp.encode()).digest() * (1 << 18)


def publish_platform(stamp):
    """Puts a platform at the origin, laid out as SmartOS releases are."""
    top = f"platform-{stamp}"
    content = boot_archive(stamp)
    packed = archive([
        (f"{top}/root.password", b"secret\n", 0o644),
        (f"{top}/etc/version/platform", stamp.encode() + b"\n", 0o644),
        (f"{top}/i86pc/kernel/amd64/unix", b"unix of " + stamp.encode(), 0o755),
        (f"{top}/i86pc/amd64/boot_archive", content, 0o644),
        (f"{top}/i86pc/amd64/boot_archive.hash", sha1_line(content), 0o644),
    ])
    base = f"us-central.manta.mnx.io/Joyent_Dev/public/SmartOS/{stamp}"
    file = f"platform-release-{stamp[:8]}-{stamp}.tgz"
    node.origin.put(f"{base}/{file}", packed)
    node.origin.put(f"{base}/sha256sums.txt", f"{hashlib.sha256(packed).hexdigest()} {file}\n".encode())
    node.origin.put("us-central.manta.mnx.io/Joyent_Dev/public/SmartOS/latest", f"/Joyent_Dev/public/SmartOS/{stamp}\n".encode())


def publish_app(text):
    node.origin.put("artifacts.example.com/app/data.tar.gz", archive([("words", text, 0o644), ("more/words", text * 2, 0o644)]))


def publish_plugins(word):
    packed = archive([(name, word + name.encode(), 0o755) for name in ("bridge", "host-local", "loopback", "portmap", "vlan")])
    base = "github.com/containernetworking/plugins/releases/download/v1.7.1/cni-plugins-linux-amd64-v1.7.1.tgz"
    node.origin.put(base, packed)
    node.origin.put(f"{base}.sha256", f"{hashlib.sha256(packed).hexdigest()}  cni-plugins-linux-amd64-v1.7.1.tgz\n".encode())


def publish_agent():
    packed = archive([("agent", b"#!/bin/sh\n", 0o755)])
    node.origin.put("artifacts.example.com/agent/v1.4.2/agent.tar.gz", packed)
    node.origin.put("artifacts.example.com/agent/v1.4.2/SHA256SUMS", f"{hashlib.sha256(packed).hexdigest()}  agent.tar.gz\n".encode())


def publish_all():
    publish_platform(STAMPS[0])
    publish_app(b"first")
    publish_plugins(b"plugin ")
    publish_agent()


def example(name, prefix=""):
    return as_pods(at_this_origin(render(DAEMONSET / "examples" / name)), prefix)


def names(pods):
    return [document["metadata"]["name"] for documents in pods for document in documents if document["kind"] == "Pod"]


def get(container, path):
    """Asks a pod's nginx from inside its own network."""
    words = ["nsenter", "-t", node.pid(container), "-n", "curl", "-sS", "-w", "\n%{http_code}", f"http://127.0.0.1{path}"]
    answer = subprocess.run(words, check=True, capture_output=True).stdout
    body, status = answer.rsplit(b"\n", 1)
    return int(status), body


def path_of(url):
    return re.sub("^http://[^/]+", "", url)


def state(artifact):
    return json.loads(node.ask(f"/v1/artifacts/{artifact}")[1])


def socket_curl(container_name, words, mount_socket=True, user="0"):
    """curl in a pod of its own, over the socket where it is mounted."""
    volume = ["-v", "/run/seedcache:/run/seedcache:ro"] if mount_socket else []
    return node.podman(
        "run", "--rm", "--name", container_name, "--cap-drop", "all", "--user", user, *volume, "curlimages/curl:8.11.1", "curl",
        "-sS", "-o", "/dev/stdout", "-w", "\n%{http_code}", "--unix-socket", "/run/seedcache/seedcache.sock", *words, check=False,
    )


class Image(unittest.TestCase):
    def test_holds_a_static_binary_and_authorities(self):
        self.assertLess(os.path.getsize(IMAGE), 20 << 20)
        with tarfile.open(IMAGE) as image, tarfile.open(fileobj=image.extractfile("layer.tar")) as layer:
            files = sorted(member.name for member in layer if not member.isdir())
            config = json.load(image.extractfile(json.load(image.extractfile("manifest.json"))[0]["Config"]))
        self.assertEqual(files, ["etc/ssl/certs/ca-certificates.crt", "usr/bin/seedcache"])
        self.assertEqual(config["config"]["User"], "65532:65532")
        self.assertEqual(config["config"]["Entrypoint"], ["/usr/bin/seedcache"])

    def test_is_what_the_containerfile_says(self):
        stage = (DAEMONSET / "Containerfile").read_text().split("FROM scratch\n")[1]
        copied = re.findall(r"(?m)^COPY --from=build \S+ (\S+)$", stage)
        self.assertEqual(copied, ["/etc/ssl/certs/ca-certificates.crt", "/usr/bin/seedcache"])
        loaded = node.inspect("seedcache:0.1.0")["Config"]
        self.assertEqual(set(re.findall(r"org\.opencontainers\.image\.\w+", stage)), loaded["Labels"].keys())
        self.assertNotIn("", loaded["Labels"].values())

    def test_runs_with_nothing_but_itself(self):
        said = node.podman("run", "--rm", "--read-only", "--cap-drop", "all", "--network", "none", "seedcache:0.1.0", "--version")
        self.assertRegex(said.stdout, r"^seedcache \d")
        shell = node.podman("run", "--rm", "--entrypoint", "/bin/sh", "seedcache:0.1.0", "-c", "true", check=False)
        self.assertNotEqual(shell.returncode, 0)


class OnANode(unittest.TestCase):
    def setUp(self):
        node.fresh()

    def start(self, overlay="overlays/examples", **options):
        node.start_daemon(overlay, **options)
        wait_for(lambda: node.answers("/healthz"))

    def start_warm(self, **options):
        publish_all()
        self.start(**options)
        wait_for(lambda: node.answers("/readyz"))
        wait_for(lambda: all(seed["state"] == "Ready" for seed in state("smartos-platform")["seeds"]))

    def started_soon(self, container):
        """An init container that finds all there takes less than a second, podman's own work included."""
        self.assertLess(node.init_seconds(container), 1)

    def boots(self, pod, stamp):
        """The pod's nginx hands out all that the script names, whole."""
        container = f"{pod}-nginx"
        status, script = get(container, "/smartos/smartos.ipxe")
        self.assertEqual(status, 200)
        self.assertTrue(script.startswith(b"#!ipxe\n"))
        text = script.decode()
        (platform,) = re.findall(r"(?m)^set platform (\S+)$", text)
        self.assertIn(stamp, platform)
        fetched = re.findall(r"(?m)^(?:kernel|module) (\S+)", text)
        self.assertEqual(len(fetched), 3)
        bodies = []
        for url in fetched:
            path = path_of(url.replace("${platform}", platform))
            self.assertIn(f"/os/{stamp}/platform/i86pc/", path)
            status, body = get(container, path)
            self.assertEqual(status, 200, path)
            bodies.append(body)
        content = boot_archive(stamp)
        self.assertEqual(bodies, [b"unix of " + stamp.encode(), content, sha1_line(content)])
        self.assertIn("type=rootfs name=ramdisk", text)
        self.assertIn("type=hash name=ramdisk", text)
        for path in ("/smartos/platform/root.password", "/smartos/root.password", f"/smartos/os/{stamp}/platform/root.password"):
            self.assertEqual(get(container, path)[0], 404)
        # An address of another version is none of this one's files.
        self.assertEqual(get(container, path_of(platform).replace(stamp, STAMPS[2]) + "/kernel/amd64/unix")[0], 404)


class Daemon(OnANode):
    def test_runs_with_the_rights_of_its_template(self):
        self.start_warm()
        container = node.inspect("seedcache-seedcache")
        status = pathlib.Path(f"/proc/{container['State']['Pid']}/status").read_text()
        said = dict(re.findall(r"(?m)^(\w+):\s+(\S+)", status))
        # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, and no more to be had.
        for field in ("CapEff", "CapPrm", "CapBnd"):
            self.assertEqual(int(said[field], 16), 0b1111, field)
        self.assertEqual((said["NoNewPrivs"], said["Seccomp"]), ("1", "2"))
        self.assertTrue(container["HostConfig"]["ReadonlyRootfs"])
        wrote = node.execute("seedcache-seedcache", "seedcache", "seed", "app-data", "/data", check=False)
        self.assertIn("Read-only file system", wrote.stdout + wrote.stderr)

    def test_takes_the_operators_commands_from_its_own_container(self):
        self.start_warm()
        told = node.execute("seedcache-seedcache", "seedcache", "status", "-o", "json").stdout
        self.assertIn("smartos-platform", told)
        publish_platform(STAMPS[1])
        node.execute("seedcache-seedcache", "seedcache", "refresh", "smartos-platform", "--wait")
        self.assertEqual(state("smartos-platform")["current"], STAMPS[1])
        node.execute("seedcache-seedcache", "seedcache", "pin", "smartos-platform", STAMPS[0])
        self.assertEqual(state("smartos-platform")["current"], STAMPS[0])


    def test_takes_up_documents_and_secrets_in_place(self):
        """As the kubelet passes on a ConfigMap and a Secret that were applied anew."""
        node.secrets["api-token"] = "first"
        settings = {"listen": {"tokenFile": "/etc/seedcache/secrets/api-token"}}
        self.start_warm(overlay="overlays/smartos", settings=settings)
        before = node.inspect("seedcache-seedcache")["State"]["StartedAt"]
        self.assertEqual(node.ask("/v1/artifacts/app-data")[0], 404)

        def refresh(token):
            return node.ask("/v1/artifacts/smartos-platform/refresh", "POST", None, {"Authorization": f"Bearer {token}"})[0]

        self.assertEqual((refresh("first"), refresh("second")), (202, 401))
        node.mount_config(at_this_origin(render(DAEMONSET / "overlays/examples")), settings)
        wait_for(lambda: node.ask("/v1/artifacts/app-data")[0] == 200 and state("app-data")["state"] == "Ready")
        node.secrets["api-token"] = "second"
        node.mount_secrets()
        wait_for(lambda: (refresh("first"), refresh("second")) == (401, 202))
        self.assertEqual(node.inspect("seedcache-seedcache")["State"]["StartedAt"], before)

    def test_trusts_the_authorities_that_it_is_given(self):
        publish_app(b"first")
        data = lambda: state("app-data")
        # Those of the image are found, and the origin's is not among them.
        self.start(origin=TLS_ORIGIN)
        wait_for(lambda: "`fetch.caFile`" in (data().get("lastError") or ""))
        self.assertNotIn("no system certificate authorities", node.logs("seedcache-seedcache"))
        node.stop("seedcache", seconds=45)
        # In the settings, as the README has it.
        node.secrets["ca.pem"] = node.ca.read_text()
        self.start(origin=TLS_ORIGIN, settings={"fetch": {"caFile": "/etc/seedcache/secrets/ca.pem"}})
        wait_for(lambda: data()["state"] == "Ready")
        node.stop("seedcache", seconds=45)
        # Or in an image of one's own, whose file is read where it stands.
        shutil.rmtree(STORE / "app-data")
        bundle, own = node.work / "bundle.pem", node.work / "own.tar"
        bundle.write_text(pathlib.Path("/etc/ssl/certs/ca-certificates.crt").read_text() + node.ca.read_text())
        binary = pathlib.Path(IMAGE).with_name("seedcache")
        words = [DAEMONSET / "build-image", "--binary", binary, "--ca", bundle, "--tag", "seedcache:own", own]
        subprocess.run(words, check=True, capture_output=True)
        node.podman("load", "-i", own)
        self.start(origin=TLS_ORIGIN, image="seedcache:own")
        wait_for(lambda: data()["state"] == "Ready")


class BootServers(OnANode):
    def warm_twice(self, name, container="seed"):
        self.start_warm()
        for time_ in ("first", "second"):
            with self.subTest(time_):
                pods = example(name)
                self.assertEqual(len(pods), 2)
                node.play_at_once(pods)
                for pod in names(pods):
                    self.started_soon(f"{pod}-{container}")
                    self.boots(pod, STAMPS[0])
                node.stop(*names(pods))

    def test_over_the_socket(self):
        self.warm_twice("sdc-ipxe")

    def test_with_busybox(self):
        self.warm_twice("sdc-ipxe-busybox")

    def test_with_curl(self):
        self.warm_twice("sdc-ipxe-curl")

    def test_before_there_is_a_daemon(self):
        """The pods are there first, then the daemon, then the artifact, which is fetched once for all of them."""
        pods = [
            *example("sdc-ipxe"), *example("sdc-ipxe-busybox", "busybox-"), *example("sdc-ipxe-curl", "curl-"),
        ]
        self.assertEqual(len(pods), 6)
        playing = threading.Thread(target=node.play_at_once, args=(pods,))
        playing.start()
        for pod in names(pods):
            wait_for(lambda: node.running(f"{pod}-seed"))
        node.origin.opened.clear()
        publish_all()
        self.start("overlays/smartos")
        wait_for(lambda: state("smartos-platform")["state"] == "Warming")
        self.assertTrue(playing.is_alive())
        node.origin.opened.set()
        playing.join()
        (version,) = state("smartos-platform")["versions"]
        for pod in names(pods):
            self.boots(pod, STAMPS[0])
            node.init_seconds(f"{pod}-seed", since=moment(version["publishedAt"]))
        self.assertEqual(list(node.origin.downloads().values()), [1], node.logs("seedcache-seedcache"))

    def test_a_newer_version_is_served_without_a_restart(self):
        self.start_warm()
        pods = example("sdc-ipxe")[:1]
        node.play_at_once(pods)
        publish_platform(STAMPS[1])
        node.execute("seedcache-seedcache", "seedcache", "refresh", "smartos-platform", "--wait")
        (pod,) = names(pods)
        wait_for(lambda: STAMPS[1].encode() in get(f"{pod}-nginx", "/smartos/smartos.ipxe")[1])
        self.boots(pod, STAMPS[1])

    def test_a_machine_boots_from_it(self):
        self.start_warm()
        pods = example("sdc-ipxe")[:1]
        node.play_at_once(pods)
        (pod,) = names(pods)
        machine = node.boot(f"{pod}-nginx", QEMU)
        try:
            wait_for(lambda: "boot_archive.hash " in node.logs(f"{pod}-nginx"), 120)
        finally:
            machine.kill()
            machine.wait()
        asked = re.findall(r"(?m)^GET (\S+) (\d+) (\d+)$", node.logs(f"{pod}-nginx"))
        platform = f"/smartos/os/{STAMPS[0]}/platform/i86pc"
        content = boot_archive(STAMPS[0])
        whole = {
            f"{platform}/kernel/amd64/unix": len(b"unix of " + STAMPS[0].encode()),
            f"{platform}/amd64/boot_archive": len(content),
            f"{platform}/amd64/boot_archive.hash": len(sha1_line(content)),
        }
        self.assertEqual(asked[0][0], "/smartos/smartos.ipxe")
        self.assertEqual(asked[1:], [(path, "200", str(size)) for path, size in whole.items()])


class Applications(OnANode):
    def data_of(self, pod):
        (volume,) = [m["Source"] for m in node.inspect(f"{pod}-app-container")["Mounts"] if m["Destination"] == "/data"]
        return pathlib.Path(volume)

    def twice_at_once(self, name, container):
        """Two of the example's pods at once, and then again; yields while they run."""
        self.start_warm()
        for _ in range(2):
            pods = example(name) + example(name, "other-")
            node.play_at_once(pods)
            for pod in names(pods):
                self.started_soon(f"{pod}-{container}")
            yield names(pods)
            node.stop(*names(pods))

    def test_waits_for_its_data(self):
        for pods in self.twice_at_once("app-container", "init-data"):
            (stored,) = STORE.glob("app-data/*/tree/words")
            for pod in pods:
                wait_for(lambda: "The app is running!" in node.logs(f"{pod}-app-container"))
                # The pod's volume and the store are two mounts of one file system: linked all the same.
                seeded, said = self.data_of(pod) / "app/words", node.logs(f"{pod}-init-data")
                self.assertEqual(seeded.read_bytes(), b"first")
                self.assertTrue(seeded.samefile(stored) or "reflink" in said, said)

    def test_waits_for_the_daemon_too(self):
        (documents,) = example("app-container")
        playing = threading.Thread(target=node.play, args=(documents,))
        playing.start()
        wait_for(lambda: node.running("app-0-init-data"))
        publish_all()
        self.start()
        playing.join()
        wait_for(lambda: "The app is running!" in node.logs("app-0-app-container"))

    def test_follows_its_data(self):
        self.start_warm()
        pods = example("app-sidecar") + example("app-sidecar", "other-")
        for again in (False, True):
            node.play_at_once(pods)
            words = [self.data_of(pod) / "app/words" for pod in names(pods)]
            wait_for(lambda: all(file.exists() and file.read_bytes() == b"first" for file in words))
            # As its startup probe does.
            for pod in names(pods):
                probe = ["seedcache", "seed", "app-data", "/data/app", "--wait", "1s", "--daemon-timeout", "1s"]
                node.execute(f"{pod}-follow-data", *probe)
            if not again:
                node.stop(*names(pods))
        publish_app(b"second")
        node.execute("seedcache-seedcache", "seedcache", "refresh", "app-data", "--wait")
        wait_for(lambda: all(file.read_bytes() == b"second" for file in words))
        # The daemon is another one meanwhile.
        node.podman("kill", "--signal", "KILL", "seedcache-seedcache")
        node.stop("seedcache")
        publish_app(b"third")
        self.start()
        wait_for(lambda: all(file.read_bytes() == b"third" for file in words))

    def test_plugins_are_installed_beside_what_is_there(self):
        bin_ = pathlib.Path("/opt/cni/bin")
        bin_.mkdir()
        (bin_ / "of-another").write_text("stays")
        (bin_ / "bridge").write_text("old")
        held = open(bin_ / "bridge")
        self.addCleanup(held.close)
        for _ in self.twice_at_once("install-cni", "install-cni"):
            found = {entry.name: entry.read_text() for entry in bin_.iterdir() if not entry.name.startswith(".")}
            expected = {name: f"plugin {name}" for name in ("bridge", "host-local", "loopback", "portmap")}
            self.assertEqual(found, expected | {"of-another": "stays"})
            self.assertEqual((bin_ / "bridge").stat().st_mode & 0o777, 0o755)
            self.assertEqual((bin_ / "bridge").stat().st_nlink, 1)
        # Whoever runs the old one goes on with it: a file was put in its place, it was not written to.
        self.assertEqual(held.read(), "old")

    def test_values_come_as_files(self):
        node.secrets["agent-token"] = "first-token\n"
        token = KUBE_DATA / "agent/current/config/token"
        for pods in self.twice_at_once("rendered-config", "seed"):
            for pod in pods:
                wait_for(lambda: "node-1 asks https://control.example.com:6443" in node.logs(f"{pod}-agent"))
            self.assertEqual((token.read_text(), token.stat().st_mode & 0o777), ("first-token\n", 0o400))
            self.assertEqual(node.execute("agent-0-agent", "cat", "/agent/current/config/token").stdout, "first-token\n")
            inspected = json.dumps(node.inspect("agent-0-agent")) + json.dumps(node.inspect("seedcache-seedcache"))
            self.assertNotIn("first-token", inspected)
        node.play(example("rendered-config")[0])
        node.secrets["agent-token"] = "second-token\n"
        node.mount_secrets()
        wait_for(lambda: node.execute("agent-0-agent", "cat", "/agent/current/config/token").stdout == "second-token\n")


class Restarts(OnANode):
    def waiting(self, opened_after):
        """Pods wait for a download under way while the daemon goes and another comes."""
        publish_all()
        node.origin.opened.clear()
        self.start()
        boot_servers = [*example("sdc-ipxe"), example("sdc-ipxe-curl", "curl-")[0], example("sdc-ipxe-busybox", "busybox-")[0]]
        pods = boot_servers + example("app-container")
        playing = threading.Thread(target=node.play_at_once, args=(pods,))
        playing.start()
        for pod in names(pods):
            wait_for(lambda: node.running(f"{pod}-init-data" if pod == "app-0" else f"{pod}-seed"))
        opened_after()
        wait_for(lambda: node.answers("/healthz"))
        self.assertTrue(playing.is_alive())
        node.origin.opened.set()
        playing.join()
        for pod in names(boot_servers):
            self.boots(pod, STAMPS[0])
        wait_for(lambda: "The app is running!" in node.logs("app-0-app-container"))
        (downloads,) = [count for path, count in node.origin.downloads().items() if "SmartOS" in path]
        self.assertEqual(downloads, 1)

    def test_killed_while_pods_wait(self):
        def kill():
            node.podman("kill", "--signal", "KILL", "seedcache-seedcache")
            node.stop("seedcache")
            node.start_daemon("overlays/examples")

        self.waiting(kill)

    def test_upgraded_while_pods_wait(self):
        def upgrade():
            node.podman("tag", "seedcache:0.1.0", "seedcache:0.2.0")
            node.stop("seedcache", seconds=45)
            node.start_daemon("overlays/examples", image="seedcache:0.2.0")

        self.waiting(upgrade)

    def test_the_next_one_waits_for_the_last(self):
        """Two at once, as when a pod was deleted by force: the second takes over when the first is gone."""
        self.start_warm()
        second = node.daemon("overlays/examples", name="second")
        for container in second[0]["spec"]["containers"]:
            del container["ports"]
        node.play(second)
        wait_for(lambda: "lock" in node.logs("second-seedcache"))
        self.assertEqual(node.inspect("second-seedcache")["State"]["Status"], "running")
        node.stop("seedcache", seconds=45)
        wait_for(lambda: node.execute("second-seedcache", "seedcache", "status", check=False).returncode == 0)


class Refused(OnANode):
    def ask(self, *words, **options):
        done = socket_curl("asks", words, **options)
        self.assertIn("\n", done.stdout, done.stderr)
        body, status = done.stdout.rsplit("\n", 1)
        return int(status), body

    def test_changes_over_the_network(self):
        self.start_warm()
        base = "/v1/artifacts/smartos-platform"
        for method, path, body in [
            ("PUT", f"{base}/pin", '{"version": "20260101T000000Z"}'), ("DELETE", f"{base}/pin", None),
            ("POST", f"{base}/refresh", None), ("POST", "/v1/gc", None),
            ("DELETE", f"{base}/versions/20260101T000000Z?force=true", None),
            ("POST", f"{base}/seed", '{"target": "agent/current", "force": true}'),
            ("POST", f"{base}/seed", '{"target": "other/pod"}'),
        ]:
            status, told = node.ask(path, method, body)
            self.assertIn(status, (401, 403), (method, path, told))
        self.assertFalse((KUBE_DATA / "other").exists())

    def test_changes_over_the_socket(self):
        """A pod that mounts the socket may read, and seed what is declared or its own: not even its root may do more."""
        self.start_warm()
        base = "http://seedcache/v1/artifacts/smartos-platform"
        for user in ("0", "65532"):
            for words in [
                ["-X", "PUT", "-d", '{"version": "20260101T000000Z"}', f"{base}/pin"], ["-X", "POST", f"{base}/refresh"],
                ["-X", "POST", "http://seedcache/v1/gc"], ["-X", "DELETE", f"{base}/versions/20260101T000000Z?force=true"],
                ["-d", '{"target": "agent/current", "force": true}', f"{base}/seed"],
                ["-d", '{"target": "/mnt/kube-data/other/pod"}', f"{base}/seed"],
            ]:
                status, told = self.ask(*words, user=user)
                self.assertEqual(status, 403, (user, words, told))
            self.assertEqual(self.ask("-d", '{"target": "sdc-ipxe/smartos"}', f"{base}/seed", user=user)[0], 200)
        self.assertFalse((KUBE_DATA / "other").exists())

    def test_the_socket_where_it_is_not_mounted(self):
        self.start_warm()
        done = socket_curl("asks", ["http://seedcache/v1/artifacts"], mount_socket=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertNotIn("smartos", done.stdout)

    def test_the_directory_of_another_pod(self):
        """By the client's own protocol: a directory that the pod cannot write to, or that is another's, is not filled."""
        self.start_warm()
        other = KUBE_DATA / "other-pod"
        other.mkdir(mode=0o755)
        (other / "precious").write_text("stays")
        for mount, user in ((f"{other}:/there:ro", "0"), (f"{other}:/there", "65532")):
            done = node.podman(
                "run", "--rm", "--read-only", "--cap-drop", "all", "--user", user, "-v", "/run/seedcache:/run/seedcache:ro",
                "-v", mount, "seedcache:0.1.0", "seed", "app-data", "/there/app", "--force", "--wait", "1s", check=False,
            )
            self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertEqual([entry.name for entry in other.iterdir()], ["precious"])

    def test_excluded_files(self):
        self.start_warm()
        base = "/v1/artifacts/smartos-platform/versions/current"
        for path in ("root.password", "platform/root.password", "platform/%2e%2e/root.password", "../archive"):
            self.assertNotEqual(node.ask(f"{base}/files/{path}")[0], 200, path)
        self.assertEqual(node.ask(f"{base}/archive")[0], 404)
        self.assertNotIn(b"root.password", node.ask(f"{base}/tree.tar")[1])
        self.assertNotIn(b"root.password", node.ask(base)[1])
        self.assertEqual(list(KUBE_DATA.rglob("root.password")), [])


if __name__ == "__main__":
    enter_namespaces()
    unittest.main(verbosity=2)
