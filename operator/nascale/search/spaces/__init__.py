"""From ``spec.space`` to a search space, and from a candidate to what a trial is told."""

from nascale.search.spaces.build import architecture, build_space, check_resolution
from nascale.search.spaces.text import decode, encode

__all__ = ["architecture", "build_space", "check_resolution", "decode", "encode"]
