"""A node in namespaces of its own: podman plays the kubelet, a small server the origin.

What podman does not do as Kubernetes would, `as_pods` writes in another way; everything else of the manifests stays as it is:
images, commands, host paths, users, capabilities, read-only roots.
"""
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
import shutil
import socket
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
# What qemu calls the machine that it runs on.
BOOT_SERVER = "http://10.0.2.2"


def enter_namespaces():
    """Runs this program again where mounts, addresses and names are its own; nothing of it is left on the machine."""
    if os.environ.get("SEEDCACHE_NODE") != "1":
        words = ["unshare", "--mount", "--net", "--uts", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe(words[0], words, os.environ | {"SEEDCACHE_NODE": "1"})


def wait_for(what, seconds=60):
    """Asks until the answer is something, and gives it."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return answer


class Origin:
    """Serves a directory. Closed, it holds what is asked of it until it is opened."""

    def __init__(self, root):
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
        self.server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, path, content):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}")
        fresh.write_bytes(content)
        fresh.rename(file)


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
        self.origin = Origin(self.work / "origin")
        self.played = []

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

    def podman(self, *words, check=True, **options):
        flags = ["--root", self.work / "storage", "--runroot", "/run/containers/storage", "--tmpdir", "/run/libpod"]
        done = subprocess.run(["podman", *flags, *words], capture_output=True, text=True, timeout=120, **options)
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
        shutil.rmtree(self.work / "origin")
        (self.work / "origin").mkdir()
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
        done = self.podman("kube", "play", file, check=False)
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
            self.podman("pod", "rm", "-f", "-t", str(seconds), *names, check=False)
            for name in names:
                self.played.remove(name)

    def inspect(self, container):
        return json.loads(self.podman("inspect", container).stdout)[0]

    def boot(self, container, qemu):
        """A machine that boots over the network, in that of a container; to be stopped by the caller."""
        libraries = ":".join(f"{qemu}/{place}/{os.uname().machine}-linux-gnu" for place in ("usr/lib", "lib"))
        data = [word for place in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu") for word in ("-L", qemu / place)]
        return subprocess.Popen([
            "nsenter", "-t", str(self.inspect(container)["State"]["Pid"]), "-n",
            qemu / "usr/bin/qemu-system-x86_64", *data, "-machine", "pc,graphics=off", "-accel", "tcg", "-m", "256", "-vga", "none",
            "-display", "none", "-monitor", "none", "-serial", "null", "-device", "e1000,netdev=net,bootindex=1",
            "-netdev", f"user,id=net,bootfile={BOOT_SERVER}/smartos/smartos.ipxe", "-no-reboot",
        ], env=os.environ | {"LD_LIBRARY_PATH": libraries}, stdin=subprocess.DEVNULL)

    def logs(self, container, check=True):
        done = self.podman("logs", container, check=check)
        return done.stdout + done.stderr

    def init_seconds(self, container):
        """How long an init container took, from its start to its end."""
        state = self.inspect(container)["State"]
        assert state["ExitCode"] == 0, self.logs(container)
        return moment(state["FinishedAt"]) - moment(state["StartedAt"])

    def execute(self, container, *words, check=True):
        return self.podman("exec", container, *words, check=check)

    # The daemon

    def start_daemon(self, overlay, name="seedcache", image=None):
        self.play(as_daemon(render(DAEMONSET / overlay), name, image, self.work / "secrets"))

    def ask(self, path, method="GET", body=None):
        """Over the hostPort, as the kubelet's probes and pods do."""
        connection = http.client.HTTPConnection(HOST_IP, 7070, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def answers(self, path):
        try:
            return self.ask(path)[0] == 200
        except OSError:
            return False


def moment(text):
    """Seconds of a time as podman writes it, whose fraction has nine digits."""
    whole, rest = text.split(".")
    fraction = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return datetime.datetime.fromisoformat(whole).timestamp() + float(f"0.{fraction}")


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


def at_this_origin(documents):
    """The documents' origins are this node's."""
    for document in documents:
        if document["kind"] == "ConfigMap":
            for name, text in document.get("data", {}).items():
                if "kind: Artifact" in text:
                    for origin in ("us-central.manta.mnx.io", "artifacts.example.com", "github.com"):
                        text = text.replace(f"https://{origin}", f"{ORIGIN}/{origin}")
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
            at.chmod(0o777)
            volume["hostPath"] = {"path": str(at), "type": "Directory"}
            del volume["emptyDir"]
    annotations = {"io.podman.annotations.init.container.type": "always"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": spec}


def as_daemon(documents, name, image, secrets):
    """The DaemonSet's pod. Its projected volume becomes one directory, its Secret another."""
    maps = {m["metadata"]["name"]: m for m in at_this_origin(of_kind(documents, "ConfigMap"))}
    (daemon,) = of_kind(documents, "DaemonSet")
    made = pod(name, daemon["spec"]["template"]["spec"])
    secrets.mkdir(exist_ok=True)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}, "data": {}}
    for volume in made["spec"]["volumes"]:
        if "projected" in volume:
            for source in volume.pop("projected")["sources"]:
                config["data"].update(maps[source["configMap"]["name"]].get("data", {}))
            volume["configMap"] = {"name": "config"}
        elif "secret" in volume:
            del volume["secret"]
            volume["hostPath"] = {"path": str(secrets), "type": "Directory"}
    if image:
        made["spec"]["containers"][0]["image"] = image
    return [config, made]


def sha1_line(content):
    return hashlib.sha1(content).hexdigest().encode() + b"\n"
