"""What tests of staged trainings share."""

import pytest

from nascale.contract.work_order import Precision
from nascale_trainer.progressive import capabilities


@pytest.fixture
def emulated_bf16(monkeypatch):
    """Let processors without instructions for BF16 emulate it: with the same numbers, and slowly."""
    monkeypatch.setattr(capabilities, "supported_precisions", lambda _: (Precision.FP32, Precision.BF16))
