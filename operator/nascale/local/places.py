"""Where things lie: the cache of binaries, and the folder of each embedded cluster."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "NASCALE_CACHE"
STATE_VARIABLE: Final = "NASCALE_STATE"
ASSETS_VARIABLE: Final = "KUBEBUILDER_ASSETS"

DEFAULT_NAME: Final = "default"
NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"
"""Names of embedded clusters; a cluster's node is called after it, so they are DNS labels."""


def cache_root() -> Path:
    """Return the folder that everything built or downloaded goes to.

    ``$NASCALE_CACHE``, else ``$XDG_CACHE_HOME/nascale``, else ``~/.cache/nascale``.
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "nascale"
    return Path.home() / ".cache" / "nascale"


def clusters_root() -> Path:
    """Return the folder that holds one folder per embedded cluster: ``$NASCALE_STATE`` or in the cache."""
    if own := os.environ.get(STATE_VARIABLE):
        return Path(own).expanduser().absolute()
    return cache_root() / "clusters"


def cluster_directory(name: str, root: Path | None = None) -> Path:
    """Return the folder of the embedded cluster ``name``, in ``root`` or else in ``clusters_root()``.

    Raises:
        ValueError: ``name`` is not a DNS label of at most 32 characters.
    """
    if not re.match(NAME_PATTERN, name):
        raise ValueError(
            f"name {name!r} must be 1 to 32 characters of a-z, 0-9 and '-', starting and ending with a "
            "letter or digit"
        )
    return (root.absolute() if root is not None else clusters_root()) / name
