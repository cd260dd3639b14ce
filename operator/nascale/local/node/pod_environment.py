"""From a container of a pod's spec to a program of this machine."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nascale.local.node.environment import (
    GPU_VARIABLE,
    SERVICE_ACCOUNT_PATH,
    SERVICE_ACCOUNT_VARIABLE,
    THREADS_VARIABLE,
    Invocation,
    declared_environment,
    invocation,
    thread_limit,
)
from nascale.local.node.errors import StartRefusedError
from nascale.local.node.fields import Placement
from nascale.local.node.paths import PathRewriter
from nascale.local.node.record import PodDirectory
from nascale.local.node.volumes import PodVolumes

DEFAULT_MESSAGE_PATH: Final = "/dev/termination-log"
STANDARD_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INHERITED: Final = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""They guard against a wrong detection of the machine's CPU: without them a container may crash."""
MAX_TEMPORARY: Final = 64
"""A socket's path has at most 107 bytes, and programs put sockets into TMPDIR."""


@dataclass(frozen=True)
class Host:
    """What the node gives to every container."""

    api_host: str
    api_port: int
    state_directory: Path
    gives_devices: bool
    """Whether GPUs are the node's to hand out."""


class ContainerEnvironment:
    """Builds the invocations of one pod's containers."""

    def __init__(self, host: Host, directory: PodDirectory, volumes: PodVolumes) -> None:
        """Take what all of the pod's containers share."""
        self._host = host
        self._directory = directory
        self._volumes = volumes
        self._rewriters: dict[str, PathRewriter] = {}

    async def invocation(
        self,
        pod: Mapping[str, Any],
        container: Mapping[str, Any],
        attempt: int,
        *,
        folders: Mapping[str, Path],
        placement: Placement,
        devices: Mapping[str, list[int]],
    ) -> Invocation:
        """Return what run ``attempt`` of the container starts; its termination message's file is made.

        Raises:
            ConfigurationMissingError: a ConfigMap, Secret or key is missing.
            StartRefusedError: the container asks for what this node does not have.
        """
        check_supported(container)
        found = {reference: await self._volumes.reference(*reference) for reference in _references(container)}
        declared = declared_environment(pod, container, placement, lambda kind, name: found.get((kind, name)))
        message = self._directory.termination_message(container["name"], attempt)
        message.touch()
        paths = {container.get("terminationMessagePath") or DEFAULT_MESSAGE_PATH: str(message)}
        for mount in container.get("volumeMounts") or []:
            paths[mount["mountPath"]] = str(folders[mount["name"]])
        try:
            rewriter = self._rewriters[container["name"]] = PathRewriter(paths)
        except ValueError as error:
            raise StartRefusedError(f"containers[{container['name']}].volumeMounts: {error}") from error
        return invocation(
            container,
            declared=declared,
            given=self._given(pod, container, paths, devices),
            rewriter=rewriter,
            default_directory=str(self._directory.scratch("work")),
        )

    def probe_invocation(
        self, container: Mapping[str, Any], running: Invocation, command: list[str]
    ) -> Invocation:
        """Return what an exec probe runs: its command, in the container's environment and folder."""
        rewriter = self._rewriters.get(container["name"]) or PathRewriter({})
        return replace(running, arguments=tuple(rewriter.rewrite(part) for part in command))

    def _given(
        self,
        pod: Mapping[str, Any],
        container: Mapping[str, Any],
        paths: Mapping[str, str],
        devices: Mapping[str, list[int]],
    ) -> dict[str, str]:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{STANDARD_PATH}",
            "HOME": str(self._directory.scratch("work")),
            "TMPDIR": str(temporary_directory(self._host.state_directory, pod["metadata"]["uid"])),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"],
            "KUBERNETES_SERVICE_HOST": self._host.api_host,
            "KUBERNETES_SERVICE_PORT": str(self._host.api_port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(self._host.api_port),
        }
        environment.update({name: os.environ[name] for name in INHERITED if name in os.environ})
        account = paths.get(SERVICE_ACCOUNT_PATH)
        if account is not None:
            environment[SERVICE_ACCOUNT_VARIABLE] = account
        threads = thread_limit(container)
        if threads is not None:
            environment[THREADS_VARIABLE] = threads
        if self._host.gives_devices:
            environment[GPU_VARIABLE] = ",".join(str(index) for index in devices.get(container["name"], []))
        return environment


def temporary_root(state_directory: Path) -> Path:
    """Return the folder of all pods' ``TMPDIR``: in the state folder unless its path is too long."""
    own = state_directory / "tmp"
    if len(str(own)) + 9 <= MAX_TEMPORARY:
        return own
    short = hashlib.sha256(str(state_directory).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"nascale-{os.getuid()}-{short}"


def temporary_directory(state_directory: Path, uid: str) -> Path:
    """Return a pod's ``TMPDIR``, made if need be."""
    root = temporary_root(state_directory)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if root.stat().st_uid != os.getuid():
        raise StartRefusedError(f"{root} must belong to the node's user")
    path = root / uid[:8]
    path.mkdir(exist_ok=True, mode=0o700)
    return path


def check_supported(container: Mapping[str, Any]) -> None:
    """Refuse what this node can't give and what would go wrong silently.

    Raises:
        StartRefusedError: the container asks for it.
    """
    name = container["name"]
    for mount in container.get("volumeMounts") or []:
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                raise StartRefusedError(
                    f"containers[{name}].volumeMounts[{mount['name']}].{field}: must be absent on this node, "
                    f"not {mount[field]!r}"
                )
    if container.get("volumeDevices"):
        raise StartRefusedError(f"containers[{name}].volumeDevices: must be absent on this node")
    if container.get("restartPolicy"):
        raise StartRefusedError(
            f"containers[{name}].restartPolicy: must be absent on this node, "
            f"not {container['restartPolicy']!r}"
        )


def _references(container: Mapping[str, Any]) -> list[tuple[str, str]]:
    fields = (
        ("configmaps", "configMapRef"),
        ("secrets", "secretRef"),
        ("configmaps", "configMapKeyRef"),
        ("secrets", "secretKeyRef"),
    )
    sources = [
        *(container.get("envFrom") or []),
        *(entry.get("valueFrom") or {} for entry in container.get("env") or []),
    ]
    return [(kind, source[field]["name"]) for source in sources for kind, field in fields if field in source]
