"""``python applicable.py LOCK``: print what of a lock is installed into an image, with its hashes.

A lock is for all platforms and Pythons. An image is Linux on this machine's processor, and has the Python
that runs this, which needs ``packaging``: the SBOM's own environment has both.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}


def applicable(lock: str) -> Iterator[str]:
    """Return the entries of a lock whose markers hold in an image, without the markers."""
    # An entry begins at the margin; its hashes are on indented lines after it.
    for entry in re.split(r"^(?=[^\s#])", lock, flags=re.MULTILINE):
        first, _, hashes = entry.partition("\\\n")
        if not first.strip() or first.startswith("#"):
            continue
        requirement = Requirement(first)
        if requirement.marker is None or requirement.marker.evaluate(IMAGE):
            yield f"{requirement.name}{requirement.specifier} \\\n{hashes}"


if __name__ == "__main__":
    sys.stdout.writelines(applicable(Path(sys.argv[1]).read_text()))
