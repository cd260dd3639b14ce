"""The checkpoint format of several processes: each writes its part, any number of them reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.run_folder import DamagedCheckpoint
from nascale_trainer.progressive.tensors import is_spread

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from nascale_trainer.progressive.run_checkpoint import State


class ShardedFormat:
    """Files of torch.distributed.checkpoint; what it needs is imported when it is first used."""

    name = "sharded"

    def save(self, folder: Path, state: State, ranks: Ranks) -> None:
        """Write the state; all processes call it alike.

        Raises:
            OSError: the volume takes no files; all processes raise it.
            PeerLost: another process is gone.
        """
        from nascale_trainer.progressive import sharded  # noqa: PLC0415  # a second that one process never needs
        from nascale_trainer.progressive.group import watching_peers  # noqa: PLC0415  # likewise

        with watching_peers():
            sharded.write(folder, state, _control(ranks))

    def load(self, folder: Path, template: State, ranks: Ranks) -> State:
        """Return the state, its tensors spread as the network's are; all processes call it alike.

        Raises:
            DamagedCheckpoint: the files can't be read.
            PeerLost: another process is gone.
        """
        from nascale_trainer.progressive import sharded  # noqa: PLC0415  # a second that most starts never need
        from nascale_trainer.progressive.group import watching_peers  # noqa: PLC0415  # likewise

        parameters = template["network"]

        def placement(path: tuple[str, ...], shape: torch.Size) -> torch.Tensor | None:
            # In every part of the state the second name is the parameter's: network, optimizer, average.
            found = parameters.get(path[1]) if len(path) > 1 else None
            if found is None or not is_spread(found) or found.shape != shape:
                return None
            spread: torch.Tensor = found.detach()
            return spread

        try:
            with watching_peers():
                return sharded.read(folder, placement, _control(ranks))
        except (sharded.UnsafeCheckpoint, OSError) as error:
            raise DamagedCheckpoint(f"{folder.name}: {error}") from error


def _control(ranks: Ranks) -> ProcessGroup | None:
    from nascale_trainer.progressive.group import GroupRanks  # noqa: PLC0415  # loaded where there is a group

    return ranks.control if isinstance(ranks, GroupRanks) else None
