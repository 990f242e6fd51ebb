"""Collating: jobs' arrays to one padded feed and back."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import Graph, Port
from service.buckets import Buckets
from service.collate import NEVER, collate, split
from service.job import Job, cost_of

GRAPH = Graph(
    "rank.onnx",
    (
        Port("candidates", "int64", ("batch", "candidates")),
        Port("timestamp", "int64", ("batch",)),
        Port("timestamps", "int64", ("batch", "records")),
        Port("feedback", "int8", ("batch", "records", 2)),
        Port("picked", "float32", ("batch", "candidates", "records", 3)),
    ),
    (
        Port("scores", "float32", ("batch", "candidates", 2)),
        Port("seen", "int64", ("batch", "records")),
    ),
)

sizes = st.tuples(st.integers(1, 5), st.integers(0, 6))


def make_job(shape: tuple[int, int], seed: int) -> Job:
    candidates, records = shape
    random = np.random.default_rng(seed)
    feed = {
        "candidates": random.integers(0, 99, candidates),
        "timestamp": np.asarray(random.integers(0, 99)),
        "timestamps": random.integers(0, 99, records),
        "feedback": random.integers(-1, 2, (records, 2)).astype(np.int8),
        "picked": random.random((candidates, records, 3), np.float32),
    }
    return Job("rank", feed, {"candidates": candidates, "records": records})


def outputs_of(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs that carry their inputs, so that a mix-up shows."""
    shown = np.stack(
        [feed["candidates"], np.broadcast_to(feed["timestamp"][:, None], feed["candidates"].shape)],
        2,
    )
    return {"scores": shown.astype(np.float32), "seen": feed["timestamps"]}


@given(st.lists(sizes, min_size=1, max_size=6))
def test_every_job_gets_its_own_part_back(shapes: list[tuple[int, int]]) -> None:
    """Splitting undoes collating, whatever the shapes of the neighbours."""
    jobs = [make_job(shape, seed) for seed, shape in enumerate(shapes)]
    parts = split(GRAPH, jobs, outputs_of(collate(GRAPH, jobs)))
    assert len(parts) == len(jobs)
    for job, part in zip(jobs, parts, strict=True):
        assert part["scores"].shape == (job.sizes["candidates"], 2)
        np.testing.assert_array_equal(part["scores"][:, 0], job.feed["candidates"])
        assert (part["scores"][:, 1] == job.feed["timestamp"]).all()
        np.testing.assert_array_equal(part["seen"], job.feed["timestamps"])


@given(st.lists(sizes, min_size=2, max_size=6))
def test_padding_is_left_of_records_and_after_every_request(shapes: list[tuple[int, int]]) -> None:
    """The newest record stays last, and a padded one has a time that no request reaches."""
    jobs = [make_job(shape, seed) for seed, shape in enumerate(shapes)]
    feed = collate(GRAPH, jobs)
    for row, job in enumerate(jobs):
        pads = feed["timestamps"].shape[1] - job.sizes["records"]
        assert (feed["timestamps"][row, :pads] == NEVER).all()
        assert not feed["feedback"][row, :pads].any()
        assert not feed["candidates"][row, job.sizes["candidates"] :].any()
        own = feed["picked"][row, : job.sizes["candidates"], pads:]
        np.testing.assert_array_equal(own, job.feed["picked"])


def test_a_single_job_is_not_copied() -> None:
    """Without company a job's arrays reach the engine as they are."""
    job = make_job((4, 5), 0)
    for name, array in collate(GRAPH, [job]).items():
        assert array.shape == (1, *job.feed[name].shape)
        assert np.shares_memory(array, job.feed[name])


def test_answers_must_be_as_many_as_questions() -> None:
    """A run that returns another number of rows than jobs is a bug, and says so."""
    jobs = [make_job((1, 1), seed) for seed in range(2)]
    outputs = outputs_of(collate(GRAPH, jobs[:1]))
    with pytest.raises(RuntimeError, match="This is a bug"):
        split(GRAPH, jobs, outputs)


def test_cost_grows_with_candidates_and_records() -> None:
    """Work is counted in query-key pairs, and a candidate without records is not free."""
    assert cost_of({"candidates": 10, "records": 0}) > 0
    assert cost_of({"candidates": 10, "records": 9}) > cost_of({"candidates": 10, "records": 8})
    assert cost_of({"candidates": 11, "records": 9}) > cost_of({"candidates": 10, "records": 9})


@given(st.lists(sizes, min_size=1, max_size=6))
def test_buckets_change_nothing_but_the_padding(shapes: list[tuple[int, int]]) -> None:
    """Every job gets its own part back from a run that was rounded up along every axis."""
    buckets = Buckets(records=4, queries=(2, 4), batches=(1, 4))
    jobs = [make_job(shape, seed) for seed, shape in enumerate(shapes)]
    feed = collate(GRAPH, jobs, buckets)
    batch, candidates, records, _ = feed["picked"].shape
    assert (batch, candidates, records) in product((1, 4, 8), (2, 4, 8), (4, 8))
    parts = split(GRAPH, jobs, outputs_of(feed), buckets)
    assert len(parts) == len(jobs)
    for job, part in zip(jobs, parts, strict=True):
        assert part["scores"][:, 0].tolist() == job.feed["candidates"].tolist()
        assert part["seen"].tolist() == job.feed["timestamps"].tolist()


def test_every_bucket_is_its_own() -> None:
    """Shapes that are warmed are those that runs have."""
    buckets = Buckets(records=100)
    shapes = list(buckets.shapes())
    assert len(shapes) == len(buckets.batches) * len(buckets.queries)
    assert all(buckets.rounded(shape) == shape for shape in shapes)
    assert buckets.rounded({"candidates": 2049, "records": 0}) == {
        "candidates": 4096,
        "records": 100,
    }
