"""Container paths become paths of this machine.

A container of a real cluster has a file system of its own: ``/data`` is its volume. A process of this node
has the machine's. So wherever a container path that the node provides (a mount path, the path of the
termination message) stands in the command, the arguments or the environment, the node writes the real path
instead.

A path is replaced where it stands between two *boundaries*: it is not the continuation of a longer path or
word, and it is not the beginning of a longer name. ``/data`` is replaced in ``/data``, ``/data/x``,
``--root=/data``, ``"/data"``, ``cat /data/x>/data/y``, ``/opt:/data`` and ``file:///data/x``, and not in
``/database``, ``/data.bak``, ``/mnt/data``, ``./data``, ``$HOME/data`` or ``https://host/data``.
The longest path wins, and a replaced text is not looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Before a path: a character of these means that the path is the rest of something longer. The closing
# brackets, "*" and "?" end a shell expansion: "$(pwd)/data", "${DIR}/data", "/mnt/*/data".
_NOT_BEFORE = r"(?<![\w.\-+@%~$*?)}\]/\\])"
# After a path: a slash begins a name below it. The others would make the last name longer, or might.
_NOT_AFTER = r"(?![\w.\-+@%~$*?({\[\\])"


class PathRewriter:
    """Replaces container paths by paths of this machine in any text."""

    def __init__(self, real: Mapping[str, str]) -> None:
        """Take the map from container path to real path.

        Raises:
            ValueError: a container path is not absolute, or is the root.
        """
        self._real: dict[str, str] = {}
        for path, target in real.items():
            trimmed = path.rstrip("/")
            if not path.startswith("/") or not trimmed:
                raise ValueError(f"mountPath: must be an absolute path below /, not {path!r}")
            self._real[trimmed] = target
        # Python's alternation takes the first branch that matches, so the longest stands first.
        longest_first = sorted(self._real, key=lambda path: (-len(path), path))
        alternatives = "|".join(re.escape(path) for path in longest_first)
        self._pattern = (
            re.compile(f"(?:{_NOT_BEFORE}|(?<=file://))({alternatives}){_NOT_AFTER}")
            if alternatives
            else None
        )

    def rewrite(self, text: str) -> str:
        """Return ``text`` with every container path replaced."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._real[match[1]], text)

    def rewrite_path(self, path: str) -> str | None:
        """Return the real path of one container path, or None where no mount holds it."""
        normal = "/" + "/".join(part for part in path.split("/") if part)
        for candidate in sorted(self._real, key=len, reverse=True):
            if normal == candidate or normal.startswith(candidate + "/"):
                return self._real[candidate] + normal[len(candidate) :]
        return None
