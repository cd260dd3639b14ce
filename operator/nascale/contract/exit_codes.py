"""Exit codes of a container, beside 0: what operator and Job controller go by where there is no report."""

from __future__ import annotations

import signal
from typing import Final

UNUSABLE_ORDER: Final = 2
"""The order can't be carried out, here or anywhere like here."""
PEER_LOST: Final = 86
"""Another of the pods that work together is gone."""
TERMINATED: Final = 128 + signal.SIGTERM
"""The container was asked to end."""
