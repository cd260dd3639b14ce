"""What a training step frees stays with the process, unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nascale_trainer.allocation import VARIABLES, keep_freed_memory

STEPS = 20
BLOCKS = """
import ctypes, resource, sys
import torch
from nascale_trainer.allocation import MMAP_THRESHOLD, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(int(sys.argv[1])):
        blocks = [torch.zeros(mebibytes, 1 << 18) for mebibytes in (7, 28, 14, 28, 7, 28)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# glibc's first threshold, which it otherwise raises by and by: every large block has a mapping of its own.
ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 128 << 10)
print(faults())
assert keep_freed_memory({})
print(faults())
"""


def test_a_step_s_memory_is_not_taken_anew_by_the_next_one():
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", BLOCKS, str(STEPS)]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    given_back, kept = map(int, done.stdout.split())
    touched = STEPS * (112 << 20) // os.sysconf("SC_PAGE_SIZE")

    assert given_back > 0.9 * touched
    assert kept < 0.2 * touched


@pytest.mark.parametrize("name", VARIABLES)
def test_who_has_chosen_an_allocator_s_settings_keeps_them(name: str):
    assert not keep_freed_memory({name: "1"})
