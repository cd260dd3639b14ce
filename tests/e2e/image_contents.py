"""What is in an image, read from its archive: the Python packages that its build installed."""

from __future__ import annotations

import email.parser
import json
import re
import tarfile
from pathlib import Path

_METADATA = re.compile(r"(?:\./)?opt/nascale/lib/python[\d.]+/site-packages/[^/]+\.dist-info/METADATA")


def packages(archive: Path) -> set[str]:
    """Return the packages of an image's own environment, as purls; what the base image has is left out.

    Args:
        archive: A docker-archive with one image.
    """
    found = set()
    with tarfile.open(archive) as image:
        (manifest,) = json.load(_member(image, "manifest.json"))
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=_member(image, layer)) as files:
                for entry in files:
                    if _METADATA.fullmatch(entry.name):
                        found.add(_purl(_member(files, entry).read()))
    return found


def _member(tar: tarfile.TarFile, member: str | tarfile.TarInfo):
    content = tar.extractfile(member)
    assert content is not None
    return content


def _purl(metadata: bytes) -> str:
    fields = email.parser.BytesHeaderParser().parsebytes(metadata)
    # PEP 503: how registries and purls write a name.
    name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
    return f"pkg:pypi/{name}@{fields['Version']}"
