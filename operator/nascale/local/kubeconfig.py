"""Kubeconfig files: self-contained, one user each, readable by their owner alone."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from nascale.local.certificates import KeyPair, write_private


def with_certificate(path: Path, *, name: str, server: str, authority: Path, pair: KeyPair) -> Path:
    """Write a kubeconfig whose user shows the client certificate ``pair``."""
    user = {
        "client-certificate-data": _base64(pair.certificate),
        "client-key-data": _base64(pair.key),
    }
    return _write(path, name=name, server=server, authority=authority, user=user)


def with_token(path: Path, *, name: str, server: str, authority: Path, token: str, namespace: str) -> Path:
    """Write a kubeconfig whose user shows the bearer ``token`` of a service account in ``namespace``."""
    return _write(
        path, name=name, server=server, authority=authority, user={"token": token}, namespace=namespace
    )


def _write(
    path: Path,
    *,
    name: str,
    server: str,
    authority: Path,
    user: dict[str, str],
    namespace: str = "default",
) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": server, "certificate-authority-data": _base64(authority)},
            }
        ],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "current-context": name,
    }
    content = yaml.safe_dump(document, sort_keys=False).encode()
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, content)
    return path


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
