"""A real kubelet with containerd as a node of a cluster's control plane, for figures that need one.

It needs root, containerd, runc, CNI plugins, a static busybox (Debian: ``containerd runc iptables
containernetworking-plugins busybox-static``), and a C compiler. ``missing()`` says what is not there.
Images are not pulled: a pause and a busybox image are made here and imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAUSE_IMAGE = "localhost/nascale-pause:1"
BUSYBOX_IMAGE = "localhost/nascale-busybox:1"
BRIDGE = "nascale-bench0"
GATEWAY = "10.219.0.1"
SUBNET = "10.219.0.0/16"
CNI_PLUGINS = Path("/usr/lib/cni")

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
    processes: dict[str, subprocess.Popen[bytes]]

    @property
    def socket(self) -> Path:
        """The socket of containerd."""
        return self.folder / "containerd.sock"


@contextlib.contextmanager
def real_node(
    kubelet: Path, kubeconfig: Path, client_ca: Path, folder: Path, name: str = "real"
) -> Iterator[RealNode]:
    """Run a node until the block ends, then remove all of it.

    Args:
        kubelet: The kubelet binary.
        kubeconfig: Credentials of ``system:node:NAME`` in group ``system:nodes``.
        client_ca: Certificate authority of whoever may call the kubelet.
        folder: An empty folder for its files.
        name: Node name.
    """
    lacks = missing()
    if lacks:
        raise RuntimeError(f"a real kubelet needs {', '.join(lacks)}")
    node = RealNode(name, folder, {})
    try:
        _network(folder)
        _cgroups()
        _containerd(node)
        _kubelet(node, kubelet, kubeconfig, client_ca)
        yield node
    finally:
        _stop(node)


def _run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=check)


def _spawn(node: RealNode, name: str, *command: str | Path) -> None:
    log = (node.folder / f"{name}.log").open("ab")
    node.processes[name] = subprocess.Popen(
        [str(part) for part in command], stdout=log, stderr=log, start_new_session=True
    )


def _network(folder: Path) -> None:
    _run("ip", "link", "delete", BRIDGE, check=False)
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{GATEWAY}/16", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    ranges = [[{"subnet": SUBNET}]]
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
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
        json.dumps({"cniVersion": "0.4.0", "name": "nascale", "plugins": [bridge, {"type": "loopback"}]})
    )


def _cgroups() -> None:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return
    for controller in root.iterdir():
        if controller.is_dir() and not controller.is_symlink() and controller.name != "unified":
            (controller / "nascale").mkdir(exist_ok=True)
    for entry in ("cpuset.cpus", "cpuset.mems"):
        (root / "cpuset" / "nascale" / entry).write_text((root / "cpuset" / entry).read_text())


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
[plugins."io.containerd.grpc.v1.cri".cni]
 bin_dir = "{CNI_PLUGINS}"
 conf_dir = "{folder}/cni"
"""
    )
    _spawn(node, "containerd", "containerd", "-c", folder / "containerd.toml")
    _wait(lambda: _run("ctr", "-a", node.socket, "version", check=False).returncode == 0, "containerd", 30)
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
        _run("ctr", "-a", node.socket, "-n", "k8s.io", "images", "import", folder / f"{name}.tar")


def _kubelet(node: RealNode, kubelet: Path, kubeconfig: Path, client_ca: Path) -> None:
    folder = node.folder
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failSwapOn": False,
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/nascale",
        "enforceNodeAllocatable": [],
        "address": GATEWAY,
        "port": 11350,
        "healthzPort": 11348,
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(client_ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "podLogsDir": str(folder / "podlogs"),
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
        f"--node-ip={GATEWAY}",
        "--v=1",
    )


def _wait(ready: object, what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} was not ready within {seconds:.0f} s")
        time.sleep(0.2)


def _stop(node: RealNode) -> None:
    kubelet = node.processes.get("kubelet")
    if kubelet is not None:
        kubelet.terminate()
        kubelet.wait(20)
    if "containerd" in node.processes:
        for _ in range(3):
            tasks = _run("ctr", "-a", node.socket, "-n", "k8s.io", "tasks", "list", "-q", check=False)
            for task in tasks.stdout.split():
                _run(
                    "ctr", "-a", node.socket, "-n", "k8s.io", "tasks", "delete", "--force", task, check=False
                )
        _kill_shims(node)
        containerd = node.processes["containerd"]
        containerd.terminate()
        containerd.wait(20)
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        target = line.split()[1]
        if target.startswith(str(node.folder)):
            _run("umount", "-l", target, check=False)
    _run("ip", "link", "delete", BRIDGE, check=False)
    shutil.rmtree(node.folder, ignore_errors=True)


def _kill_shims(node: RealNode) -> None:
    """End the shims that this containerd started (each names its socket in its arguments)."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if b"containerd-shim" in arguments[0] and str(node.socket).encode() in arguments:
                os.kill(int(entry.name), signal.SIGKILL)
