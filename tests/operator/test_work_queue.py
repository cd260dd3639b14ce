"""The work queue: every wake-up leads to work, no key is worked on twice at the same time."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator import virtual_time

from nascale.handlers.queue import Backoff, QueueClosedError, WorkQueue


def now() -> float:
    return asyncio.get_running_loop().time()


def test_keys_come_once_and_in_the_order_in_which_they_became_due():
    async def scenario() -> list[str]:
        queue: WorkQueue[str] = WorkQueue()
        for key in ("a", "b", "a", "c", "b"):
            queue.add(key)
        return [await queue.get() for _ in range(queue.depth)]

    assert virtual_time.run(scenario()) == ["a", "b", "c"]


def test_a_key_added_while_it_is_worked_on_is_worked_on_once_more():
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        assert queue.depth == 0
        queue.done("a")
        assert queue.depth == 1
        assert await queue.get() == "a"
        queue.done("a")
        assert queue.depth == 0

    virtual_time.run(scenario())


def test_a_timer_makes_its_key_due_when_its_time_has_come():
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("late", 30.0)
        queue.add_after("early", 10.0)
        assert await queue.get() == "early"
        assert now() == pytest.approx(10.0)
        assert await queue.get() == "late"
        assert now() == pytest.approx(30.0)

    virtual_time.run(scenario())


def test_the_last_timer_of_a_key_counts_and_an_event_makes_it_moot():
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", 10.0)
        queue.add_after("a", 50.0)
        assert await queue.get() == "a"
        assert now() == pytest.approx(50.0)
        queue.done("a")
        queue.add_after("a", 10.0)
        queue.add("a")
        assert await queue.get() == "a"
        queue.done("a")
        await asyncio.sleep(100.0)
        assert queue.depth == 0

    virtual_time.run(scenario())


def test_pauses_double_up_to_the_bound_and_success_resets_them():
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue(Backoff(first_seconds=1.0, longest_seconds=300.0))
        for failures in range(1, 14):
            pause = queue.retry("a")
            bound = min(300.0, 2.0 ** (failures - 1))
            assert bound / 2 <= pause <= bound
            begun = now()
            assert await queue.get() == "a"
            assert now() - begun == pytest.approx(pause)
            queue.done("a")
        queue.forget("a")
        assert queue.retry("a") <= 1.0

    virtual_time.run(scenario())


def test_two_keys_that_fail_together_do_not_come_back_together():
    async def scenario() -> set[float]:
        queue: WorkQueue[int] = WorkQueue()
        return {queue.retry(key) for key in range(50)}

    assert len(virtual_time.run(scenario())) > 40


def test_a_back_off_never_overflows():
    assert Backoff().pause(100_000) <= 300.0


def test_closing_ends_those_who_wait_and_drops_what_is_due():
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [QueueClosedError] * 3
        queue.add("a")
        queue.add_after("b", 1.0)
        assert queue.depth == 0

    virtual_time.run(scenario())


def test_a_cancelled_worker_passes_its_wake_up_on():
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        first.cancel()
        assert await second == "a"

    virtual_time.run(scenario())


def test_ages_show_what_waits_and_what_is_worked_on():
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        assert queue.longest_wait() == queue.longest_work() == 0.0
        queue.add("a")
        await asyncio.sleep(7.0)
        assert queue.longest_wait() == pytest.approx(7.0)
        await queue.get()
        await asyncio.sleep(5.0)
        assert queue.longest_wait() == 0.0
        assert queue.longest_work() == pytest.approx(5.0)
        queue.done("a")
        assert queue.longest_work() == 0.0

    virtual_time.run(scenario())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    workers=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["now", "later", "pause"])), max_size=40),
)
def test_every_wake_up_is_followed_by_work_and_no_key_is_at_two_workers(seed, workers, steps):
    """After the last wake-up of a key, work on it begins; work on one key never overlaps."""
    chance = random.Random(seed)

    async def scenario() -> None:
        queue: WorkQueue[int] = WorkQueue()
        woken: dict[int, float] = {}
        begun: dict[int, float] = {}
        active: set[int] = set()

        async def work() -> None:
            while True:
                key = await queue.get()
                assert key not in active
                active.add(key)
                begun[key] = now()
                await asyncio.sleep(chance.uniform(0.0, 2.0))
                active.discard(key)
                queue.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        for key, how in steps:
            if how == "pause":
                await asyncio.sleep(chance.uniform(0.0, 3.0))
            elif how == "later":
                queue.add_after(key, chance.uniform(0.1, 5.0))
            else:
                queue.add(key)
                woken[key] = now()
        await asyncio.sleep(1000.0)
        assert queue.depth == 0
        assert all(begun[key] >= moment for key, moment in woken.items())
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)

    virtual_time.run(scenario())
