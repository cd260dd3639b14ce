"""A real kubelet with containerd as a node of a cluster's control plane, for figures and tests that need one.

It needs root, containerd, runc, CNI plugins, a static busybox (Debian: ``containerd runc iptables
containernetworking-plugins busybox-static``), and a C compiler. ``missing()`` says what is not there.
Images are not pulled: a pause and a busybox image are made here and imported.

All of it goes with the block, and with the process that started it: a watcher waits for that one's end.
``python real_node.py remove FOLDER PLACE [PID]`` is the watcher, and removes a node by hand without PID.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PAUSE_IMAGE = "localhost/nascale-pause:1"
BUSYBOX_IMAGE = "localhost/nascale-busybox:1"
CNI_PLUGINS = Path("/usr/lib/cni")
CNI_RESULTS = Path("/var/lib/cni/results")
"""Where the CNI library keeps what it answered; nothing configures another place."""
LOG_LINKS = Path("/var/log/containers")
"""Where the kubelet links logs for collectors; nothing configures another place."""
CGROUPS = Path("/sys/fs/cgroup")
MARK = "NASCALE_NODE_FOLDER"
"""In the environment of kubelet, containerd and its shims: they are found by it."""
START_SECONDS = 60
STOP_SECONDS = 20

PAUSE_SOURCE = """
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int number) { exit(0); }
static void reap(int number) { while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, reap);
  for (;;) pause();
}
"""


@dataclass(frozen=True)
class Place:
    """What of the machine a node takes for itself; nodes of different places can run side by side.

    Attributes:
        name: Name of its network and of its control group at the root.
        bridge: Network interface that its pods hang on; at most 15 characters.
        gateway: The bridge's address, and the node's.
        subnet: Addresses of its pods; holds the gateway.
        kubelet_port: Port of the kubelet at the gateway.
        health_port: Port of the kubelet's probe at the loopback address.
    """

    name: str
    bridge: str
    gateway: str
    subnet: str
    kubelet_port: int
    health_port: int


BENCHMARKS = Place("nascale", "nascale-bench0", "10.219.0.1", "10.219.0.0/16", 11350, 11348)


def missing() -> list[str]:
    """Say what this machine lacks to run a real kubelet; an empty list means that it can."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    lacks += [
        tool for tool in ("containerd", "runc", "ctr", "ip", "busybox", "cc") if shutil.which(tool) is None
    ]
    if not (CNI_PLUGINS / "bridge").exists():
        lacks.append(f"{CNI_PLUGINS}/bridge")
    return lacks


def _image(name: str, files: dict[str, Path], entrypoint: list[str], links: dict[str, str]) -> bytes:
    """Return a docker-archive tar with one layer."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for target, source in files.items():
            entry = tarfile.TarInfo(target)
            entry.mode, entry.size = 0o755, source.stat().st_size
            with source.open("rb") as content:
                tar.addfile(entry, content)
        for link, target in links.items():
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(entry)
    blob = layer.getvalue()
    digest = hashlib.sha256(blob).hexdigest()
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in {
            "config.json": json.dumps(config).encode(),
            "layer.tar": blob,
            "manifest.json": json.dumps(manifest).encode(),
        }.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


APPLETS = (
    "sh",
    "sleep",
    "date",
    "grep",
    "sed",
    "cut",
    "cat",
    "printf",
    "awk",
    "head",
    "tr",
    "mv",
    "sync",
    "true",
)


@dataclass
class RealNode:
    """One node; use ``real_node`` to start and stop it."""

    name: str
    folder: Path
    place: Place

    @property
    def socket(self) -> Path:
        """The socket of containerd."""
        return self.folder / "containerd.sock"

    def ctr(self, *arguments: str | Path) -> str:
        """Run containerd's client on the kubelet's images and containers."""
        return _run("ctr", "-a", self.socket, "-n", "k8s.io", *arguments).stdout

    def fault(self) -> str:
        """Return the end of the kubelet's log where it has ended by itself; empty: it runs."""
        if _marked(self.folder, "kubelet"):
            return ""
        return "\n".join((self.folder / "kubelet.log").read_text().splitlines()[-5:])

    def load(self, archive: Path) -> None:
        """Bring an image (docker-archive) to the node."""
        self.ctr("images", "import", archive)


@contextlib.contextmanager
def real_node(
    kubelet: Path,
    kubeconfig: Path,
    client_ca: Path,
    folder: Path,
    name: str = "real",
    *,
    place: Place = BENCHMARKS,
    dns: str = "",
) -> Iterator[RealNode]:
    """Run a node until the block ends, then remove all of it.

    Args:
        kubelet: The kubelet binary.
        kubeconfig: Credentials of ``system:node:NAME`` in group ``system:nodes``.
        client_ca: Certificate authority of whoever may call the kubelet.
        folder: An empty folder for its files.
        name: Node name.
        place: What of the machine it takes.
        dns: Address of the cluster's DNS, for domain cluster.local; "": there is none.
    """
    lacks = missing()
    if lacks:
        raise RuntimeError(f"a real kubelet needs {', '.join(lacks)}")
    node = RealNode(name, folder, place)
    _watch(folder, place)
    try:
        _network(node)
        _cgroups(place)
        _containerd(node)
        _kubelet(node, kubelet, kubeconfig, client_ca, dns)
        yield node
    finally:
        remove(folder, place)


def _run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done


def _spawn(node: RealNode, name: str, *command: str | Path) -> None:
    with (node.folder / f"{name}.log").open("ab") as log:
        subprocess.Popen(
            [str(part) for part in command],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, MARK: str(node.folder)},
        )


def _watch(folder: Path, place: Place) -> None:
    subprocess.Popen(
        [sys.executable, "-P", __file__, "remove", str(folder), json.dumps(asdict(place)), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _network(node: RealNode) -> None:
    place, folder = node.place, node.folder
    _run("ip", "link", "delete", place.bridge, check=False)
    _run("ip", "link", "add", place.bridge, "type", "bridge")
    _run("ip", "address", "add", f"{place.gateway}/16", "dev", place.bridge)
    _run("ip", "link", "set", place.bridge, "up")
    ranges = [[{"subnet": place.subnet}]]
    bridge = {
        "type": "bridge",
        "bridge": place.bridge,
        "isGateway": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(folder / "ipam"),
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    (folder / "cni").mkdir(parents=True)
    (folder / "cni" / "10-bridge.conflist").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": place.name, "plugins": [bridge, {"type": "loopback"}]})
    )


def _cgroup_roots() -> list[Path]:
    """Return the roots of all hierarchies: one (version 2), or one for each controller (version 1)."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [root for root in CGROUPS.iterdir() if root.is_dir() and not root.is_symlink()]


def _cgroups(place: Place) -> None:
    for root in _cgroup_roots():
        if root.name != "unified":
            (root / place.name).mkdir(exist_ok=True)
    cpuset = CGROUPS / "cpuset" / place.name
    if cpuset.exists():
        # The kubelet wants all of the machine's. Pods inherit which of them this process may use.
        for entry in ("cpuset.cpus", "cpuset.mems"):
            (cpuset / entry).write_text((cpuset.parent / entry).read_text())


def _containerd(node: RealNode) -> None:
    folder = node.folder
    (folder / "containerd.toml").write_text(
        f"""version = 2
root = "{folder}/containerd-root"
state = "{folder}/containerd-state"
[grpc]
 address = "{node.socket}"
[plugins."io.containerd.grpc.v1.cri"]
 sandbox_image = "{PAUSE_IMAGE}"
 restrict_oom_score_adj = true
 netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
 bin_dir = "{CNI_PLUGINS}"
 conf_dir = "{folder}/cni"
[plugins."io.containerd.internal.v1.opt"]
 path = "{folder}/opt"
"""
    )
    _spawn(node, "containerd", "containerd", "-c", folder / "containerd.toml")
    version = ("ctr", "-a", str(node.socket), "version")
    _wait(lambda: _run(*version, check=False).returncode == 0, "containerd", START_SECONDS)
    source, pause = folder / "pause.c", folder / "pause"
    source.write_text(PAUSE_SOURCE)
    _run("cc", "-static", "-O2", "-o", pause, source)
    busybox = Path(shutil.which("busybox") or "")
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    images = {
        "pause": _image(PAUSE_IMAGE, {"pause": pause}, ["/pause"], {}),
        "busybox": _image(BUSYBOX_IMAGE, {"bin/busybox": busybox}, ["/bin/sh"], links),
    }
    for name, content in images.items():
        (folder / f"{name}.tar").write_bytes(content)
        node.load(folder / f"{name}.tar")


def _kubelet(node: RealNode, kubelet: Path, kubeconfig: Path, client_ca: Path, dns: str) -> None:
    folder, place = node.folder, node.place
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failSwapOn": False,
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.name}",
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        # Without the machine's servers, which pods can't reach, other names than the cluster's fail at once.
        "resolvConf": "",
        **({"clusterDNS": [dns], "clusterDomain": "cluster.local"} if dns else {}),
        "address": place.gateway,
        "port": place.kubelet_port,
        "healthzPort": place.health_port,
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(client_ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "podLogsDir": str(folder / "podlogs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
    }
    (folder / "kubelet.json").write_text(json.dumps(config))
    _spawn(
        node,
        "kubelet",
        kubelet,
        f"--config={folder}/kubelet.json",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={folder}/kubelet",
        f"--hostname-override={node.name}",
        f"--node-ip={place.gateway}",
        "--v=1",
    )


def _wait(ready: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} was not ready within {seconds:.0f} s")
        time.sleep(0.2)


def remove(folder: Path, place: Place) -> None:
    """End every process of a node and remove what it left on the machine; can be done again."""
    _end(_marked(folder, "kubelet"), signal.SIGTERM)
    # Before containerd: nobody starts them again now.
    _end(_in_cgroups(place), signal.SIGKILL)
    _end(_marked(folder, "containerd"), signal.SIGTERM)
    _end(_marked(folder, ""), signal.SIGKILL)
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        target = line.split()[1]
        if target.startswith(f"{folder}/"):
            _run("umount", "-l", target, check=False)
    _run("ip", "link", "delete", place.bridge, check=False)
    for root in _cgroup_roots():
        _remove_cgroup(root / place.name)
    if CNI_RESULTS.exists():
        for result in CNI_RESULTS.glob(f"{place.name}-*"):
            result.unlink(missing_ok=True)
    if LOG_LINKS.exists():
        for link in LOG_LINKS.iterdir():
            if link.is_symlink() and str(link.readlink()).startswith(f"{folder}/"):
                link.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _marked(folder: Path, program: str) -> list[int]:
    """Return the processes that were started for the node and whose program is named so; "": all of them."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                name = Path(os.fsdecode((entry / "cmdline").read_bytes().split(b"\0")[0])).name
                if program in {"", name}:
                    found.append(int(entry.name))
    return found


def _in_cgroups(place: Place) -> list[int]:
    found = set()
    for root in _cgroup_roots():
        for members in (root / place.name).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found |= {int(number) for number in members.read_text().split()}
    return sorted(found)


def _end(processes: list[int], number: signal.Signals) -> None:
    """Send the signal, then, to those that are still there after a while, SIGKILL."""
    for attempt in (number, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, attempt)
        deadline = time.monotonic() + STOP_SECONDS
        while processes and time.monotonic() < deadline:
            processes = [process for process in processes if _runs(process)]
            time.sleep(0.05)


def _runs(process: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, os.WNOHANG)
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _remove_cgroup(group: Path) -> None:
    if not group.exists():
        return
    inner = sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
    for path in [*inner, group]:
        for _ in range(20):
            try:
                path.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.05)  # the kernel takes a moment to let the last process go
            else:
                break


def _wait_for_end(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll()


def _main(arguments: list[str]) -> None:
    _, folder, place, *process = arguments
    if process:
        _wait_for_end(int(process[0]))
        if not Path(folder).exists():
            return  # removed in the ordinary way; the place may have a new node by now
    remove(Path(folder), Place(**json.loads(place)))


if __name__ == "__main__":
    _main(sys.argv[1:])
