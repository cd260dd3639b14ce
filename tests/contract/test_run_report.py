"""The run report: at most 4,096 bytes, whatever happened."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nascale.contract.errors import ContractError, ReportTooLongError, UnknownVersionError
from nascale.contract.report import MAX_REPORT_BYTES, DeviceReport
from nascale.contract.run_order import MAX_STAGES
from nascale.contract.run_report import (
    RunOutcome,
    RunReport,
    StageReport,
    SwitchPhase,
    parse_run_report,
)
from nascale.contract.switch_class import SwitchClass

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SECONDS = st.floats(min_value=0, max_value=1e15, allow_nan=False)
METRICS = ("accuracy", "loss", "macro_f1", "perplexity_at_length_1024_of_the_validation")


def _full_stage(place: int) -> StageReport:
    """A stage with everything: long name, large counts, awkward numbers."""
    return StageReport(
        name=f"{place:02d}" + "x" * 30,
        begin=10**15 - 1,
        end=10**15,
        steps=10**12 - 1,
        seconds=1.2345678901234567e-7,
        p50=1.2345678901234567e-7,
        p99=1.2345678901234567e-7,
        loss=-1.2345678901234567e-200,
        metrics=dict.fromkeys(METRICS, -1.2345678901234567e-200),
        switch=SwitchClass.RESCHEDULE,
        phases=dict.fromkeys(SwitchPhase, 1.2345678901234567e-7),
    )


def _full_report(count: int = MAX_STAGES) -> RunReport:
    return RunReport(
        generation=10**6,
        revision=10**6,
        refused=10**6,
        refused_reason="R" * 40,
        outcome=RunOutcome.COMPLETED,
        reason="R" * 40,
        message="ä" * 1024,
        step=10**12,
        samples=10**15,
        whole=10**15,
        stage="z" * 32,
        stages=tuple(_full_stage(place) for place in range(count)),
        metrics={f"metric_{place}" + "x" * 38: -1.2345678901234567e-200 for place in range(8)},
        lost_steps=10**9,
        roll_backs=100,
        model="m" * 256,
        digest="f" * 64,
        device=DeviceReport(type="cuda", name="n" * 64),
    )


def test_the_longest_report_fits_and_keeps_what_counts():
    full = _full_report()

    encoded = full.encode()

    assert len(encoded) <= MAX_REPORT_BYTES
    read = parse_run_report(encoded.decode())
    assert read.metrics == full.metrics
    assert (read.step, read.samples, read.model, read.digest) == (
        full.step,
        full.samples,
        full.model,
        "f" * 64,
    )
    assert [(s.name, s.begin, s.end, s.steps) for s in read.stages] == [
        (s.name, s.begin, s.end, s.steps) for s in full.stages
    ]


def test_the_message_gives_way_first_then_phases_then_metrics_of_stages():
    kept: list[tuple[bool, bool, bool]] = []
    for count in range(1, MAX_STAGES + 1):
        read = parse_run_report(_full_report(count).encode().decode())
        kept.append(
            (
                len(read.message or "") == 1024,
                any(stage.phases for stage in read.stages),
                any(stage.metrics for stage in read.stages),
            )
        )

    # What was given up for fewer stages is never back for more, and each is given up before the next.
    assert all(later <= earlier for earlier, later in pairwise(kept))
    assert all(phases >= message and metrics >= phases for message, phases, metrics in kept)
    assert len(set(kept)) >= 3


def test_sixteen_ordinary_stages_keep_their_phases_and_metrics():
    stages = tuple(
        StageReport(
            name=f"stage-{place}",
            begin=place * 100_000,
            end=(place + 1) * 100_000,
            steps=1562,
            seconds=123.45,
            p50=0.0789,
            p99=0.0991,
            loss=0.5123,
            metrics={"accuracy": 0.9123},
            switch=SwitchClass.LIVE,
            phases={SwitchPhase.APPLY: 0.00123},
        )
        for place in range(MAX_STAGES)
    )
    report = RunReport(generation=1, outcome=RunOutcome.COMPLETED, stages=stages, message="Trained.")

    assert parse_run_report(report.encode().decode()) == report


reports = st.builds(
    RunReport,
    generation=st.integers(1, 10**6),
    outcome=st.sampled_from(RunOutcome),
    reason=st.none() | st.just("OutOfMemory"),
    message=st.none() | st.text(max_size=200),
    step=st.integers(0, 10**9),
    samples=st.integers(0, 10**12),
    whole=st.none() | st.integers(1, 10**12),
    stage=st.none() | st.just("full"),
    stages=st.lists(
        st.builds(
            StageReport,
            name=st.sampled_from(["a", "b", "c"]),
            begin=st.integers(0, 10**12),
            end=st.none() | st.integers(0, 10**12),
            seconds=SECONDS,
            p50=st.none() | SECONDS,
            loss=st.none() | NUMBERS,
            metrics=st.dictionaries(st.sampled_from(METRICS), NUMBERS, max_size=4),
            switch=st.sampled_from(SwitchClass),
            phases=st.dictionaries(st.sampled_from(SwitchPhase), SECONDS),
        ),
        max_size=4,
    ),
    metrics=st.dictionaries(st.sampled_from(METRICS), NUMBERS, max_size=4),
)


@given(reports)
@settings(max_examples=100)
def test_what_is_encoded_is_read_again_and_final_values_are_exact(report: RunReport):
    read = parse_run_report(report.encode().decode())

    assert (read.outcome, read.step, read.samples, read.metrics) == (
        report.outcome,
        report.step,
        report.samples,
        report.metrics,
    )
    assert read.encode() == report.encode()


@given(reports)
@settings(max_examples=50)
def test_a_document_is_the_same_after_a_round_trip(report: RunReport):
    assert RunReport.model_validate_json(report.to_json()) == report


def test_a_report_that_was_cut_is_refused():
    text = _full_report().to_json()

    with pytest.raises(ReportTooLongError, match="must be at most 4096 bytes"):
        parse_run_report(text)
    with pytest.raises(ContractError, match="must be JSON"):
        parse_run_report(text[: MAX_REPORT_BYTES - 1024])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"outcome": "Maybe"}, "outcome"),
        ({"generation": 0}, "generation"),
        ({"surprise": 1}, "surprise"),
        ({"metrics": {"accuracy": "much"}}, "metrics.accuracy"),
    ],
)
def test_a_wrong_report_is_refused_by_field(change: dict[str, Any], fault: str):
    document = json.loads(RunReport(generation=1, outcome=RunOutcome.PAUSED).to_json())

    with pytest.raises(ContractError, match=fault):
        parse_run_report(json.dumps({**document, **change}))


def test_a_trial_s_report_is_not_taken_for_a_run_s():
    with pytest.raises(UnknownVersionError, match="run report: version"):
        parse_run_report('{"version": "nascale.io/report/v1"}')
