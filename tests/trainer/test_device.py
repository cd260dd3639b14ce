"""What a device is called: two of one name must train at the same speed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nascale_trainer import device, processor
from nascale_trainer.device import describe_device
from nascale_trainer.processor import LONGEST_NAME, processor_name

EPYC = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
cpu MHz\t\t: {clock}
flags\t\t: fpu vme sse2 avx avx2 fma {flags}

processor\t: 1
model name\t: AMD EPYC
cpu MHz\t\t: 2600.000
flags\t\t: fpu vme sse2 avx avx2 fma {flags}
"""
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes {features}
CPU implementer\t: 0x41
CPU variant\t: 0x1
CPU part\t: {part}
"""
FLAGS = ("", "avx512f avx512bw", "avx512f avx512_bf16", "avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile")


def test_processors_of_one_model_name_and_other_instructions_have_other_names():
    names = [processor_name(EPYC.format(clock="2600.0", flags=flags)) for flags in FLAGS]

    assert names == [
        "AMD EPYC with AVX2",
        "AMD EPYC with AVX-512",
        "AMD EPYC with AVX-512 BF16",
        "AMD EPYC with AMX BF16, FP16",
    ]


def test_the_clock_and_the_number_of_cores_do_not_change_the_name():
    slow, fast = EPYC.format(clock="800.0", flags=""), EPYC.format(clock="3700.0", flags="")

    assert processor_name(slow) == processor_name(fast) == processor_name(slow.partition("\n\n")[0])


def test_a_processor_that_the_kernel_has_no_name_for_is_told_by_its_numbers(monkeypatch):
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")

    second = processor_name(GRAVITON.format(features="", part="0xd0c"))
    third = processor_name(GRAVITON.format(features="asimdhp sve bf16", part="0xd40"))

    assert second == "aarch64 0x41/0xd0c/0x1 with NEON"
    assert third == "aarch64 0x41/0xd40/0x1 with NEON BF16, FP16"


def test_a_long_name_keeps_its_instructions():
    name = processor_name(f"model name : {'Processor ' * 9}\nflags : avx2 avx512f amx_bf16 amx_fp16")

    assert len(name) == LONGEST_NAME
    assert name.endswith(" with AMX BF16, FP16")


@pytest.mark.parametrize("text", ["", "processor : 0", "model name :\nflags :"])
def test_where_the_kernel_says_nothing_the_architecture_is_told(text, monkeypatch):
    monkeypatch.setattr(processor.platform, "machine", lambda: "riscv64")

    assert processor_name(text) == "riscv64"


def test_a_report_names_the_processor_its_clock_and_the_library(tmp_path: Path, monkeypatch):
    said = tmp_path / "cpuinfo"
    said.write_text(EPYC.format(clock="2000.000", flags="avx512f avx512_bf16"))
    monkeypatch.setattr(device, "CPU_INFO", said)
    monkeypatch.setattr(device, "_CPU_FOLDER", tmp_path)

    report = describe_device(torch.device("cpu"))

    assert report.name == "AMD EPYC with AVX-512 BF16"
    assert report.clock_megahertz == 2300
    assert report.software == f"torch {torch.__version__}"
    said.unlink()
    assert describe_device(torch.device("cpu")).clock_megahertz is None
