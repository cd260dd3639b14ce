"""Work orders and environments for the trainer's tests."""

import json
import os
import subprocess
import sys

import pytest

# Before torch is imported: tiny networks gain nothing from a second thread, and on a busy machine threads
# that wait for each other by spinning make them a hundred times as slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def one_thread():
    """Compute with one thread where torch was imported before the variable was set, too.

    With another number of threads sums come out different in their last bits.
    """
    import torch  # noqa: PLC0415  # not before the variables are set

    torch.set_num_threads(1)


RUN = {"kind": "ArchitectureSearch", "name": "demo", "namespace": "default", "uid": "u-1"}


@pytest.fixture
def make_order():
    """Return a function that makes a valid work order's document; keywords replace its fields."""

    def make(trials=("demo-0",), **fields):
        return {
            "version": "nascale.io/work-order/v1",
            "run": RUN,
            "candidates": [{"trial": trial, "index": index} for index, trial in enumerate(trials)],
            "metrics": ["accuracy"],
            **fields,
        }

    return make


@pytest.fixture
def environ(tmp_path):
    """Return a function that makes the environment of a trial's container."""

    def make(order, **more):
        return {
            "NASCALE_WORK_ORDER": order if isinstance(order, str) else json.dumps(order),
            "NASCALE_TERMINATION_LOG": str(tmp_path / "termination-log"),
            "NASCALE_METRICS_PORT": "0",
            "NASCALE_BIND_ADDRESS": "127.0.0.1",
            **more,
        }

    return make


@pytest.fixture(scope="session")
def make_architecture():
    """Return a function that makes a tiny architecture for images of 8 x 8."""

    def make(resolution=8, channels=16, depth=1, block="FusedMBConv", **fields):
        return {
            "stem": {"type": "Conv", "channels": 8, "stride": 1},
            "stages": [
                {
                    "block": block,
                    "kernel": 3,
                    "stride": 1,
                    "expansion": 1,
                    "channels": channels,
                    "depth": depth,
                },
                {
                    "block": "MBConv",
                    "kernel": 3,
                    "stride": 2,
                    "expansion": 4,
                    "channels": 24,
                    "depth": 1,
                    "squeezeExcitation": "0.25",
                },
            ],
            "head": {"channels": 64},
            "resolution": resolution,
            **fields,
        }

    return make


@pytest.fixture
def start_python():
    """Return a function that starts Python processes; what still runs at the end is killed."""
    started = []

    def run(arguments, variables):
        process = subprocess.Popen(
            [sys.executable, *arguments], env=variables, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)
        process.stderr.close()
