"""Who the node is, and where the API server is: read from a kubeconfig."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


@dataclass(frozen=True)
class Credentials:
    """The current context of a kubeconfig."""

    server: str
    authority: str
    """PEM text of the authority that signed the server's certificate."""
    token: str | None
    client_certificate: bytes | None
    client_key: bytes | None

    @property
    def host(self) -> str:
        """The API server's host name or address."""
        return urlsplit(self.server).hostname or ""

    @property
    def port(self) -> int:
        """The API server's port."""
        return urlsplit(self.server).port or 443

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that verifies the server and shows the client certificate, if there is one."""
        context = ssl.create_default_context(cadata=self.authority)
        if self.client_certificate and self.client_key:
            load_pair(context, self.client_certificate, self.client_key)
        return context


def load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a key pair from memory: Python's ssl reads files only, so one exists for a moment."""
    descriptor, name = tempfile.mkstemp(prefix="nascale-")
    try:
        with os.fdopen(descriptor, "wb") as stream:  # mkstemp: readable by its owner alone
            stream.write(certificate + b"\n" + key)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()


def load_credentials(path: Path) -> Credentials:
    """Read a kubeconfig's current context.

    Raises:
        ValueError: the context, its cluster or its user is missing, or has no authority.
    """
    document = yaml.safe_load(path.read_text())
    context = _named(document, "contexts", document.get("current-context"), path)["context"]
    cluster = _named(document, "clusters", context["cluster"], path)["cluster"]
    user = _named(document, "users", context["user"], path)["user"]
    authority = _content(cluster, "certificate-authority", path)
    if authority is None:
        raise ValueError(f"{path}: cluster {context['cluster']}: certificate-authority must be given")
    token = user.get("token")
    if token is None and user.get("tokenFile"):
        token = (path.parent / user["tokenFile"]).read_text().strip()
    return Credentials(
        server=cluster["server"].rstrip("/"),
        authority=authority.decode(),
        token=token,
        client_certificate=_content(user, "client-certificate", path),
        client_key=_content(user, "client-key", path),
    )


def _named(document: dict[str, Any], section: str, name: str | None, path: Path) -> dict[str, Any]:
    for entry in document.get(section) or []:
        if entry["name"] == name:
            return dict(entry)
    raise ValueError(f"{path}: {section}: must hold an entry named {name!r}")


def _content(section: dict[str, Any], field: str, path: Path) -> bytes | None:
    if section.get(f"{field}-data"):
        return base64.b64decode(section[f"{field}-data"])
    if section.get(field):
        return path.parent.joinpath(str(section[field])).read_bytes()
    return None
