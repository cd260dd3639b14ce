"""A pod's volumes as folders of this machine."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from nascale.local.node.api import NOT_FOUND, ApiClient, ApiError
from nascale.local.node.atomic_files import FileContent, write_files
from nascale.local.node.errors import MountPendingError, StartRefusedError
from nascale.local.node.fields import Placement, read_field, read_resource
from nascale.local.node.record import PodDirectory
from nascale.local.node.references import References
from nascale.local.node.tokens import TokenSource

Json = dict[str, Any]

SUPPORTED: Final = (
    "configMap",
    "secret",
    "downwardAPI",
    "projected",
    "emptyDir",
    "hostPath",
    "persistentVolumeClaim",
)


class PodVolumes:
    """Sets up the volumes of one pod and keeps their content up to date."""

    def __init__(
        self,
        client: ApiClient,
        references: References,
        directory: PodDirectory,
        pod: Mapping[str, Any],
        on_change: Callable[[], None],
    ) -> None:
        """Touch nothing yet; ``on_change`` is called when a ConfigMap or Secret in use changes."""
        self._client = client
        self._references = references
        self._directory = directory
        self._namespace = pod["metadata"]["namespace"]
        self._uid = pod["metadata"]["uid"]
        self._on_change = on_change
        self._claims: dict[str, Path] = {}
        self.tokens = TokenSource(client, pod)

    async def reference(self, kind: str, name: str) -> Json | None:
        """Return a ConfigMap or Secret of the pod's namespace and follow it."""
        return await self._references.use(
            kind, self._namespace, name, owner=self._uid, on_change=self._on_change
        )

    async def sync(self, pod: Mapping[str, Any], placement: Placement) -> dict[str, Path]:
        """Bring every volume up to date; return the folder of each.

        Raises:
            MountPendingError: something that a volume needs is not there yet.
            StartRefusedError: a volume is of a kind that this node does not have, or its content is invalid.
        """
        return {
            volume["name"]: await self._sync(volume, pod, placement)
            for volume in pod["spec"].get("volumes") or []
        }

    async def _sync(self, volume: Mapping[str, Any], pod: Mapping[str, Any], placement: Placement) -> Path:
        name = volume["name"]
        kind = next((kind for kind in SUPPORTED if kind in volume), None)
        if kind is None:
            given = ", ".join(sorted(set(volume) - {"name"}))
            raise StartRefusedError(
                f"volumes[{name}]: must be one of {', '.join(SUPPORTED)} on this node, not {given}"
            )
        source = volume[kind]
        folder = self._directory.volume(name)
        if kind == "emptyDir":
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        if kind == "hostPath":
            return _host_path(name, source)
        if kind == "persistentVolumeClaim":
            return await self._claim(name, source["claimName"])
        projections = source.get("sources") or [] if kind == "projected" else [{kind: source}]
        default_mode = int(source.get("defaultMode") or 0o644)
        files: dict[str, FileContent] = {}
        for projection in projections:
            files.update(await self._files(name, projection, default_mode, pod, placement))
        try:
            write_files(folder, files)
        except ValueError as error:
            raise StartRefusedError(f"volumes[{name}]: {error}") from error
        return folder

    async def _files(
        self,
        volume: str,
        projection: Mapping[str, Any],
        mode: int,
        pod: Mapping[str, Any],
        placement: Placement,
    ) -> dict[str, FileContent]:
        for kind, field in (("configMap", "configmaps"), ("secret", "secrets")):
            if kind in projection:
                source = projection[kind]
                return await self._object_files(volume, field, source, mode)
        if "downwardAPI" in projection:
            return {
                item["path"]: FileContent(
                    _downward(item, pod, placement).encode(), int(item.get("mode") or mode)
                )
                for item in projection["downwardAPI"].get("items") or []
            }
        if "serviceAccountToken" in projection:
            source = projection["serviceAccountToken"]
            try:
                token = await self.tokens.get(source)
            except ApiError as error:
                raise MountPendingError(f"volume {volume}: token request failed: {error}") from error
            return {source["path"]: FileContent(token.encode(), 0o600)}
        raise StartRefusedError(
            f"volumes[{volume}].projected: {', '.join(projection)} is not supported on this node"
        )

    async def _object_files(
        self, volume: str, kind: str, source: Mapping[str, Any], mode: int
    ) -> dict[str, FileContent]:
        name = source.get("name") or source.get("secretName") or ""
        found = await self.reference(kind, name)
        if found is None:
            if source.get("optional"):
                return {}
            raise MountPendingError(f'volume {volume}: {kind[:-1]} "{name}" not found')
        content = _decoded(kind, found)
        if not source.get("items"):
            return {key: FileContent(value, mode) for key, value in content.items()}
        files = {}
        for item in source["items"]:
            if item["key"] in content:
                files[item["path"]] = FileContent(content[item["key"]], int(item.get("mode") or mode))
            elif not source.get("optional"):
                raise MountPendingError(f"volume {volume}: {kind[:-1]} {name} has no key {item['key']!r}")
        return files

    async def _claim(self, volume: str, claim: str) -> Path:
        """Return the folder behind a claim: its volume must be a folder of this machine."""
        if claim in self._claims:
            return self._claims[claim]
        try:
            found = await self._client.get(
                f"/api/v1/namespaces/{self._namespace}/persistentvolumeclaims/{claim}"
            )
            if (found.get("status") or {}).get("phase") != "Bound":
                raise MountPendingError(f"volume {volume}: claim {claim} is not bound")
            bound = await self._client.get(f"/api/v1/persistentvolumes/{found['spec']['volumeName']}")
        except ApiError as error:
            problem = "not found" if error.status == NOT_FOUND else str(error)
            raise MountPendingError(f"volume {volume}: claim {claim}: {problem}") from error
        spec = bound["spec"]
        source = spec.get("hostPath") or spec.get("local")
        if source is None:
            raise StartRefusedError(
                f"volumes[{volume}]: claim {claim}: its volume must be of kind hostPath or local on this node"
            )
        folder = _host_path(volume, {"type": "DirectoryOrCreate", **source})
        self._claims[claim] = folder
        return folder


def _host_path(volume: str, source: Mapping[str, Any]) -> Path:
    path = Path(source["path"])
    kind = source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch()
    checks = {"Directory": path.is_dir, "DirectoryOrCreate": path.is_dir, "File": path.is_file}
    if not checks.get(kind, path.exists)():
        raise MountPendingError(
            f"volume {volume}: hostPath {path} must exist and be a {kind or 'file or folder'}"
        )
    return path


def _downward(item: Mapping[str, Any], pod: Mapping[str, Any], placement: Placement) -> str:
    if "fieldRef" in item:
        return read_field(pod, item["fieldRef"]["fieldPath"], placement)
    return read_resource(pod, pod["spec"]["containers"][0], item["resourceFieldRef"], placement)


def _decoded(kind: str, found: Mapping[str, Any]) -> dict[str, bytes]:
    data = found.get("data") or {}
    if kind == "secrets":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary = found.get("binaryData") or {}
    return {
        **{key: value.encode() for key, value in data.items()},
        **{key: base64.b64decode(value) for key, value in binary.items()},
    }
