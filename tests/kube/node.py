"""A node in namespaces of its own: podman plays the kubelet, a small server the origin.

What podman does not do as Kubernetes would, `as_pods` writes in another way; everything else of the manifests stays as it is:
images, commands, host paths, users, capabilities, read-only roots.
"""
import collections
import contextlib
import copy
import datetime
import functools
import hashlib
import http.client
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent.parent.parent
DAEMONSET = HERE / "daemonset"
KUBE_DATA = pathlib.Path("/mnt/kube-data")
# The first address of the network that podman makes: the node, as pods see it.
HOST_IP = "10.89.0.1"
ORIGIN = f"http://{HOST_IP}:8000"
TLS_ORIGIN = f"https://{HOST_IP}:8443"
# What qemu calls the machine that it runs on.
BOOT_SERVER = "http://10.0.2.2"


def enter_namespaces():
    """Runs this program again where mounts, addresses and names are its own; nothing of it is left on the machine."""
    if os.environ.get("SEEDCACHE_NODE") != "1":
        words = ["unshare", "--mount", "--net", "--uts", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe(words[0], words, os.environ | {"SEEDCACHE_NODE": "1"})


def wait_for(what, seconds=60):
    """Asks until the answer is something, and gives it; less and less often, since podman's answers cost much."""
    deadline, pause = time.monotonic() + seconds, 0.05
    while not (answer := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)
        pause = min(2 * pause, 0.4)
    return answer


class Origin:
    """Serves a directory, over TLS too. Closed, it holds what is asked of it until it is opened."""

    def __init__(self, root, certificate):
        self.root, self.asked, self.opened = root, [], threading.Event()
        self.opened.set()
        origin = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                origin.asked.append(self.path)
                origin.opened.wait()
                super().do_GET()

            def log_message(self, *_):
                pass

        handler = functools.partial(Handler, directory=str(root))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        for port in (8000, 8443):
            server = http.server.ThreadingHTTPServer(("0.0.0.0", port), handler)
            server.daemon_threads = True
            # Clients that trust nobody here, or that are killed.
            server.handle_error = lambda *_: None
            if port == 8443:
                # Shaken hands by the connection's own thread, not by the one that accepts.
                server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def downloads(self):
        """How often each archive was asked for."""
        return collections.Counter(path for path in self.asked if path.endswith((".tgz", ".tar.gz")))

    def put(self, path, content):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}")
        fresh.write_bytes(content)
        fresh.rename(file)


def authority(directory):
    """A certificate authority, and a certificate of the origin that it signed, with its key."""
    (directory / "openssl.cnf").write_text(
        "[req]\ndistinguished_name=name\n[name]\n[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n"
        f"[origin]\nbasicConstraints=critical,CA:FALSE\nsubjectAltName=IP:{HOST_IP}\n"
    )

    def made(name, *words):
        subprocess.run([
            "openssl", "req", "-x509", "-config", "openssl.cnf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", "2", "-subj", f"/CN={name}", "-extensions", name, "-keyout", f"{name}.key", "-out", f"{name}.pem", *words,
        ], cwd=directory, check=True, capture_output=True)
        return directory / f"{name}.pem"

    ca = made("ca")
    signed = made("origin", "-CA", "ca.pem", "-CAkey", "ca.key")
    signed.write_text(signed.read_text() + (directory / "origin.key").read_text())
    return ca, signed


def mount_volume(at, files, mode=0o644):
    """Lays files (name: text) out as the kubelet does for ConfigMaps, Secrets and projected volumes: in a hidden directory that
    `..data` leads to, a link through that for each, all of them switched by one rename."""
    at.mkdir(parents=True, exist_ok=True)
    payload = pathlib.Path(tempfile.mkdtemp(prefix="..2026_", dir=at))
    payload.chmod(0o755)
    for name, text in files.items():
        (payload / name).write_text(text)
        (payload / name).chmod(mode)
    data = at / "..data"
    old = at / os.readlink(data) if data.is_symlink() else None
    (at / "..data_tmp").symlink_to(payload.name)
    (at / "..data_tmp").rename(data)
    for name in files:
        if not (at / name).is_symlink():
            (at / name).symlink_to(f"..data/{name}")
    for entry in at.iterdir():
        if not entry.name.startswith("..") and entry.name not in files:
            entry.unlink()
    if old:
        shutil.rmtree(old)


def archive(files):
    """A tar.gz of (path, content, mode)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content, mode in files:
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(content), mode, 1_700_000_000
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class Node:
    def __init__(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="seedcache-node-", dir=os.environ.get("SEEDCACHE_NODE_DIR")))
        self.lay_out()
        (self.work / "containers.conf").write_text(
            '[containers]\ndefault_ulimits=["nofile=4096:4096","nproc=32768:32768"]\n'
            '[engine]\ncgroup_manager="cgroupfs"\nruntime="runc"\nevents_logger="file"\n'
            f'[network]\nnetwork_config_dir="{self.work}/network"\n'
        )
        os.environ["CONTAINERS_CONF"] = str(self.work / "containers.conf")
        (self.work / "origin").mkdir()
        self.ca, certificate = authority(self.work)
        self.origin = Origin(self.work / "origin", certificate)
        self.secrets, self.played, self.pids = {}, [], {}

    def lay_out(self):
        def run(*words):
            subprocess.run(words, check=True)

        # Of the machine's own /run nothing is touched: podman, its sockets and ours live on this one.
        run("mount", "-t", "tmpfs", "none", "/run")
        run("ip", "link", "set", "lo", "up")
        # The node's disk: a file system of its own, on which host paths and empty directories are mounts apart.
        with open(self.work / "disk", "wb") as disk:
            disk.truncate(1 << 30)
        run("mkfs.ext4", "-q", self.work / "disk")
        self.disk = self.work / "node"
        self.disk.mkdir()
        run("mount", "-o", "loop", self.work / "disk", self.disk)
        for name in ("kube-data", "opt-cni", "empty"):
            (self.disk / name).mkdir()
        for name, at in (("kube-data", KUBE_DATA), ("opt-cni", pathlib.Path("/opt/cni"))):
            at.mkdir(parents=True, exist_ok=True)
            run("mount", "--bind", self.disk / name, at)
        # podman's cleanup of ended containers fails where nobody listens for its log.
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.log.bind("/run/log")

        def drain():
            while self.log.recv(65536):
                pass

        threading.Thread(target=drain, daemon=True).start()

    def podman(self, *words, check=True, timeout=120, **options):
        flags = ["--root", self.work / "storage", "--runroot", "/run/containers/storage", "--tmpdir", "/run/libpod"]
        done = subprocess.run(["podman", *flags, *words], capture_output=True, text=True, timeout=timeout, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"podman {' '.join(map(str, words))}: {done.stdout}{done.stderr}")
        return done

    def import_image(self, name, files, *changes):
        """An image of (path in it, file of this machine, or None for a directory)."""
        root = pathlib.Path(tempfile.mkdtemp(dir=self.work))
        for path, source in files:
            at = root / path.lstrip("/")
            if source is None:
                at.mkdir(parents=True, exist_ok=True)
                continue
            at.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, str):
                at.write_text(source)
            else:
                shutil.copy(source, at)
        (root / "tmp").mkdir(mode=0o1777, exist_ok=True)
        if (root / "bin/busybox").exists():
            subprocess.run(["chroot", root, "/bin/busybox", "--install", "-s", "/bin"], check=True)
        changes = [word for change in changes for word in ("--change", change)]
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as packed:
            self.podman("import", *changes, "-", name, stdin=packed.stdout)
        shutil.rmtree(root)

    def make_images(self, seedcache):
        """The images that examples name, made of this machine's own programs."""
        self.podman("load", "-i", seedcache)
        busybox = ("/bin/busybox", pathlib.Path("/bin/busybox"))
        self.import_image("busybox:1.37", [busybox], "ENV PATH=/bin", 'CMD ["sh"]')
        self.import_image("curlimages/curl:8.11.1", program("curl"), "ENV PATH=/usr/bin", "USER 100:101")
        nginx = program("nginx") + [
            ("/etc/nginx/nginx.conf", NGINX), ("/etc/passwd", "root:x:0:0::/:\nnginx:x:101:101::/:\n"),
            ("/etc/group", "root:x:0:\nnginx:x:101:\n"), ("/var/log/nginx", None), ("/var/lib/nginx", None),
            ("/etc/nginx/conf.d", None), ("/usr/share/nginx/html", None), busybox,
        ]
        start = 'CMD ["/usr/sbin/nginx", "-g", "daemon off;"]'
        self.import_image("nginx:1.28", nginx, "ENV PATH=/usr/sbin:/bin", start)

    def fresh(self):
        """Stops every pod and empties the node, for the next test."""
        self.stop(*list(self.played))
        for directory in (KUBE_DATA, pathlib.Path("/run/seedcache"), pathlib.Path("/opt/cni"), self.disk / "empty"):
            for entry in directory.iterdir() if directory.exists() else []:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for name in ("origin", "volumes"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        (self.work / "origin").mkdir()
        self.secrets.clear()
        self.origin.asked.clear()
        self.origin.opened.set()

    def close(self):
        self.fresh()
        self.podman("rm", "-fa", "-t", "0", check=False)
        self.podman("unmount", "-a", check=False)
        subprocess.run(["umount", KUBE_DATA, "/opt/cni", self.disk], check=False)
        shutil.rmtree(self.work, ignore_errors=True)

    # Pods

    def play(self, documents, name=None):
        """Starts one pod of `as_pods`; comes back when its init containers are done and its containers run."""
        (pod,) = [document for document in documents if document["kind"] == "Pod"]
        name = pod["metadata"]["name"]
        self.played.append(name)
        file = self.work / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        done = self.podman("kube", "play", file, check=False, timeout=300)
        if done.returncode != 0:
            said = [self.logs(f"{name}-{c['name']}", check=False) for c in pod["spec"]["initContainers"]]
            raise AssertionError("\n".join([name, done.stderr, *said]))

    def play_at_once(self, pods):
        """Starts pods at the same time."""
        failures = []

        def play(documents):
            try:
                self.play(documents)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failures.append(str(error))

        threads = [threading.Thread(target=play, args=(documents,)) for documents in pods]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, "\n".join(failures)

    def stop(self, *names, seconds=0):
        if names:
            self.pids.clear()
            self.podman("pod", "rm", "-f", "-t", str(seconds), *names, check=False)
            for name in names:
                self.played.remove(name)

    def running(self, container):
        return self.podman("ps", "-q", "--filter", f"name=^{container}$").stdout

    def inspect(self, container):
        return json.loads(self.podman("inspect", container).stdout)[0]

    def pid(self, container):
        """Its first process, asked of podman once."""
        if container not in self.pids:
            self.pids[container] = str(self.inspect(container)["State"]["Pid"])
        return self.pids[container]

    def boot(self, container, qemu):
        """A machine that boots over the network, in that of a container; to be stopped by the caller."""
        libraries = ":".join(f"{qemu}/{place}/{os.uname().machine}-linux-gnu" for place in ("usr/lib", "lib"))
        data = [word for place in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu") for word in ("-L", qemu / place)]
        return subprocess.Popen([
            "nsenter", "-t", self.pid(container), "-n",
            qemu / "usr/bin/qemu-system-x86_64", *data, "-machine", "pc,graphics=off", "-accel", "tcg", "-m", "256", "-vga", "none",
            "-display", "none", "-monitor", "none", "-serial", "null", "-device", "e1000,netdev=net,bootindex=1",
            "-netdev", f"user,id=net,bootfile={BOOT_SERVER}/smartos/smartos.ipxe", "-no-reboot",
        ], env=os.environ | {"LD_LIBRARY_PATH": libraries}, stdin=subprocess.DEVNULL)

    def logs(self, container, check=True):
        done = self.podman("logs", container, check=check)
        return done.stdout + done.stderr

    def init_seconds(self, container, since=None):
        """How long an init container took, from its start, or a moment after that, to its end. podman notes the start some
        hundredths of a second late: what takes less may seem to have ended before."""
        state = self.inspect(container)["State"]
        assert state["ExitCode"] == 0, self.logs(container)
        seconds = moment(state["FinishedAt"]) - (since or moment(state["StartedAt"]))
        print(f"{container}: {seconds:.3f} s", flush=True)
        return seconds

    def execute(self, container, *words, check=True):
        return self.podman("exec", container, *words, check=check)

    # The daemon

    def daemon(self, overlay, name="seedcache", image=None, settings=None, origin=ORIGIN):
        """The DaemonSet's pod, and its volumes as they are now."""
        documents = at_this_origin(render(DAEMONSET / overlay), origin)
        self.mount_config(documents, settings)
        self.mount_secrets()
        return as_daemon(documents, name, image, self.work / "volumes")

    def mount_config(self, documents, settings=None):
        """What the projected volume holds; `settings` are said besides what the overlay says, by section."""
        files = {}
        for document in of_kind(documents, "ConfigMap"):
            if document["metadata"]["name"].startswith(("seedcache-settings", "seedcache-documents")):
                files |= document.get("data", {})
        said = yaml.safe_load(files["seedcache.yaml"])
        for section, fields in (settings or {}).items():
            said.setdefault(section, {}).update(fields)
        files["seedcache.yaml"] = yaml.safe_dump(said)
        mount_volume(self.work / "volumes/config", files)

    def mount_secrets(self):
        mount_volume(self.work / "volumes/secrets", self.secrets, 0o400)

    def start_daemon(self, overlay, **options):
        self.play(self.daemon(overlay, **options))

    def ask(self, path, method="GET", body=None, headers=None):
        """Over the hostPort, as the kubelet's probes and pods do."""
        connection = http.client.HTTPConnection(HOST_IP, 7070, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def answers(self, path):
        try:
            return self.ask(path)[0] == 200
        except OSError:
            return False


def moment(text):
    """Seconds of a time as podman and the daemon write it, with a fraction of up to nine digits."""
    whole, fraction, zone = re.fullmatch(r"([^.]+?)(\.\d+)?(Z|[+-]\d\d:\d\d)", text).groups()
    return datetime.datetime.fromisoformat(whole + zone.replace("Z", "+00:00")).timestamp() + float(fraction or 0)


def program(name):
    """A program of this machine with the libraries that it is linked to."""
    path = pathlib.Path(shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")).resolve()
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    libraries = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    place = "/usr/sbin/" if name == "nginx" else "/usr/bin/"
    return [(place + name, path)] + [(library, pathlib.Path(library)) for library in libraries]


NGINX = """
user nginx;
worker_processes 1;
error_log /dev/stderr;
pid /tmp/nginx.pid;
events {}
http {
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    log_format whole '$request_method $request_uri $status $body_bytes_sent';
    access_log /dev/stdout whole;
    include /etc/nginx/conf.d/*.conf;
}
"""


@functools.cache
def rendered(directory):
    return subprocess.run(["kubectl", "kustomize", directory], check=True, capture_output=True, text=True).stdout


def render(directory):
    return [document for document in yaml.safe_load_all(rendered(directory)) if document]


def at_this_origin(documents, here=ORIGIN):
    """The documents' origins are this node's."""
    for document in documents:
        if document["kind"] == "ConfigMap":
            for name, text in document.get("data", {}).items():
                if "kind: Artifact" in text:
                    for origin in ("us-central.manta.mnx.io", "artifacts.example.com", "github.com"):
                        text = text.replace(f"https://{origin}", f"{here}/{origin}")
                    document["data"][name] = text.replace("http://boot.example.com", BOOT_SERVER)
    return documents


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def as_pods(documents, prefix=""):
    """Each pod of the documents, with the ConfigMaps that it needs, in the words that podman knows."""
    maps = of_kind(documents, "ConfigMap")
    found = []
    for workload in of_kind(documents, "Pod", "Deployment", "DaemonSet"):
        spec = workload["spec"] if workload["kind"] == "Pod" else workload["spec"]["template"]["spec"]
        for replica in range(workload["spec"].get("replicas", 1)):
            name = f"{prefix}{workload['metadata']['name']}-{replica}"
            found.append([*maps, pod(name, spec)])
    return found


def pod(name, spec):
    spec = copy.deepcopy(spec)
    shared = spec.pop("securityContext", {})
    group = shared.get("fsGroup")
    # podman would start init containers again after they ended well.
    spec["restartPolicy"] = "Never"
    for field in ("serviceAccountName", "priorityClassName", "nodeSelector", "tolerations", "enableServiceLinks", "dnsPolicy"):
        spec.pop(field, None)
    # Without CoreDNS and kube-proxy the Service's name leads to the one daemon that there is by its hostPort.
    if not spec.pop("hostNetwork", False):
        spec["hostAliases"] = [{"ip": HOST_IP, "hostnames": ["seedcache.seedcache.svc"]}]
    sidecars = [c for c in spec.get("initContainers", []) if c.pop("restartPolicy", None) == "Always"]
    spec["initContainers"] = [c for c in spec.get("initContainers", []) if c not in sidecars]
    spec["containers"] = sidecars + spec["containers"]
    for container in spec["initContainers"] + spec["containers"]:
        container["securityContext"] = {
            key: value for key, value in (shared | container.get("securityContext", {})).items()
            if key not in ("seccompProfile", "fsGroup", "runAsNonRoot")  # podman's default profile is on in any case
        }
        # podman would publish every port that is named.
        container["ports"] = [port for port in container.get("ports", []) if "hostPort" in port]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(probe, None)
        container["envFrom"] = [e for e in container.get("envFrom", []) if not e.get("configMapRef", {}).get("optional")]
        for variable in container.get("env", []):
            field = variable.pop("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            if field:
                variable["value"] = {"status.hostIP": HOST_IP, "spec.nodeName": "node-1"}[field]
        if not container["securityContext"]:
            del container["securityContext"]
    for volume in spec.get("volumes", []):
        if "emptyDir" in volume:
            # podman's are named volumes, which pods of one name would share; and any user may write to one.
            at = pathlib.Path(os.environ["CONTAINERS_CONF"]).parent / "node/empty" / name / volume["name"]
            at.mkdir(parents=True, exist_ok=True)
            os.chown(at, 0, group or 0)
            # As the kubelet leaves it: its group sticks to all that is made there.
            at.chmod(0o2777 if group else 0o777)
            volume["hostPath"] = {"path": str(at), "type": "Directory"}
            del volume["emptyDir"]
    annotations = {"io.podman.annotations.init.container.type": "always"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": spec}


def as_daemon(documents, name, image, volumes):
    """The DaemonSet's pod. Its projected volume and its Secret, which podman does not know, are directories laid out as such."""
    (daemon,) = of_kind(documents, "DaemonSet")
    made = pod(name, daemon["spec"]["template"]["spec"])
    for volume in made["spec"]["volumes"]:
        for kind in ("projected", "secret"):
            if volume.pop(kind, None):
                volume["hostPath"] = {"path": str(volumes / volume["name"]), "type": "Directory"}
    if image:
        made["spec"]["containers"][0]["image"] = image
    return [made]


def sha1_line(content):
    return hashlib.sha1(content).hexdigest().encode() + b"\n"
