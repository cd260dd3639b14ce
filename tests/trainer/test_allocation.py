"""What a training step frees stays with the process, unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nascale_trainer.allocation import VARIABLES, keep_freed_memory

STEPS = 20
BLOCKS = """
import resource, sys
import torch
from nascale_trainer.allocation import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory({})

def step():
    blocks = [torch.zeros(mebibytes, 1 << 18) for mebibytes in (7, 28, 14, 28, 7, 28)]
    return sum(float(block[0, 0]) for block in blocks)

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(int(sys.argv[2])):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kind: str) -> int:
    """Return the page faults of some steps that take and free 112 MiB in blocks of 7 to 28."""
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", BLOCKS, kind, str(STEPS)]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_a_step_s_memory_is_not_taken_anew_by_the_next_one():
    assert faults("kept") < faults("given back") / 5


@pytest.mark.parametrize("name", VARIABLES)
def test_who_has_chosen_an_allocator_s_settings_keeps_them(name: str):
    assert not keep_freed_memory({name: "1"})
