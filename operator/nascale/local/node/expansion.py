"""``$(NAME)`` in commands, arguments and values, as the kubelet expands it."""

from __future__ import annotations

import re
from collections.abc import Mapping

# "$$" is an escaped dollar sign; "$(NAME)" is a reference; any other dollar sign stands for itself.
_REFERENCE = re.compile(r"\$(?:(\$)|\(([^)]*)\))")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value. Unknown names stay as they are, ``$$(NAME)`` gives ``$(NAME)``."""

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        return values.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)
