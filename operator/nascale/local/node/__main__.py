"""``python -m nascale.local.node``: run a node, or remove what a node left behind."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from nascale.local.node.agent import run_node
from nascale.local.node.settings import (
    DEFAULT_POD_RANGE,
    LOOPBACK,
    NodeSettings,
    parse_capacity,
    parse_pod_range,
)
from nascale.local.node.teardown import remove_everything


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGTERM or SIGINT; the containers go on."""
    parser = argparse.ArgumentParser(prog="python -m nascale.local.node", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of pods, logs and volumes")
    parser.add_argument(
        "--remove-everything",
        action="store_true",
        help="kill every container of the node in --state-dir and delete that folder; run nothing",
    )
    parser.add_argument("--kubeconfig", type=Path, help="who the node is and where the API server is")
    parser.add_argument("--name", help="the node's name")
    parser.add_argument("--capacity", help="for example cpu=2,memory=8Gi,nvidia.com/gpu=0")
    parser.add_argument("--pod-cidr", default=DEFAULT_POD_RANGE, help="the pods' addresses (%(default)s)")
    parser.add_argument("--address", default=LOOPBACK, help="the node's own address (%(default)s)")
    parser.add_argument(
        "--claims-dir", type=Path, help="make volumes for claims of class nascale-local, in this folder"
    )
    parser.add_argument("--port", type=int, default=0, help="port for logs; 0 takes a free one")
    options = parser.parse_args(arguments)
    state = options.state_dir.absolute()
    if options.remove_everything:
        remove_everything(state)
        return 0
    for name in ("kubeconfig", "name", "capacity"):
        if getattr(options, name) is None:
            parser.error(f"--{name} must be given")
    try:
        settings = NodeSettings(
            kubeconfig=options.kubeconfig,
            name=options.name,
            state_directory=state,
            capacity=parse_capacity(options.capacity),
            pod_range=parse_pod_range(options.pod_cidr),
            address=options.address,
            claims_directory=options.claims_dir.absolute() if options.claims_dir else None,
            port=options.port,
        )
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    asyncio.run(_run_until_signalled(settings))
    return 0


async def _run_until_signalled(settings: NodeSettings) -> None:
    task = asyncio.ensure_future(run_node(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await task


if __name__ == "__main__":
    sys.exit(main())
