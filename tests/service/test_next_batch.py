"""The rule by which waiting jobs share a run."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from service.batcher import next_batch
from service.collate import merged_sizes
from service.job import Job, cost_of

MOST_COST, MOST_WASTE = 500_000, 1.15


def job(candidates: int, records: int, graph: str = "rank") -> Job:
    return Job(graph, {}, {"candidates": candidates, "records": records})


jobs = st.builds(job, st.integers(1, 600), st.integers(0, 200), st.sampled_from(["rank", "append"]))


@given(st.lists(jobs, min_size=1, max_size=30))
def test_a_batch_is_worth_its_padding(waiting: list[Job]) -> None:
    """The oldest job runs, with company of its own graph, within the cost and the waste allowed."""
    batch = next_batch(deque(waiting), most_cost=MOST_COST, most_waste=MOST_WASTE)
    parts = sum(each.cost for each in batch)
    assert batch[0] is waiting[0]
    assert {each.graph for each in batch} == {waiting[0].graph}
    places = [next(i for i, each in enumerate(waiting) if each is one) for one in batch]
    assert places == sorted(set(places))
    if len(batch) > 1:
        assert parts <= MOST_COST
        assert cost_of(merged_sizes(batch)) * len(batch) <= MOST_WASTE * parts


def test_equal_jobs_run_together() -> None:
    """Jobs of one shape share a run until its cost is reached."""
    waiting = deque(job(100, 100) for _ in range(50))
    batch = next_batch(waiting, most_cost=MOST_COST, most_waste=MOST_WASTE)
    assert len(batch) == MOST_COST // waiting[0].cost


def test_a_large_job_runs_alone() -> None:
    """A job above the cost of a batch is run, without company."""
    waiting = deque([job(2000, 1000), job(2000, 1000)])
    assert len(next_batch(waiting, most_cost=MOST_COST, most_waste=MOST_WASTE)) == 1


def test_a_short_job_does_not_pay_for_a_long_one() -> None:
    """Unequal shapes would be padded to the larger one, so they are left apart."""
    waiting = deque([job(1, 1), job(500, 100)])
    assert len(next_batch(waiting, most_cost=MOST_COST, most_waste=MOST_WASTE)) == 1
