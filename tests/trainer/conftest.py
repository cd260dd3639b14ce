"""Work orders and environments for the trainer's tests."""

import json

import pytest

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
