"""Streaming training, the paper's loop: read records, predict, learn, save records; one pass.

Two models walk along: `live` learns, and `model`, the average of its weights, predicts, makes the
records that are saved, and is what is exported. Records in the memory are of the weights of their
time; no gradient goes into them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle import Vocabulary
from models.events import UNKNOWN, EventTable
from models.marm import Marm
from models.packing import Packed, encoded, pack
from models.prequential import Prequential
from models.running_start import RunningStart
from models.stream_memory import Coming, Memory

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class StreamRecipe:
    """How to learn from a stream."""

    events_per_batch: int = 512
    learning_rate: float = 2.5e-4  # events of a moment are of few users: small steps
    table_rate: float = 1.0  # of the learning rate, for embeddings and item biases
    warmup_steps: int = 50
    weight_decay: float = 0.01
    average: float = 0.98
    id_dropout: float = 0.02
    longest_session: int = 64
    miss_rate: float = 0.05  # records that are left out at random while learning
    sample: float = 1.0  # share of the events that are learned from
    growth: float = (
        1.5  # of the log since items were last fitted to it, to fit them again; 0: never
    )


class Streamer:
    """Everything that moves while the stream goes by; a checkpoint holds exactly this."""

    def __init__(
        self,
        model: Marm,
        running: RunningStart,
        table: EventTable,
        vocabulary: Vocabulary,
        memory: Memory,
        recipe: StreamRecipe,
        *,
        seed: int,
        head: int = 0,
        every: int = 5_000,
    ) -> None:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.table, self.vocabulary, self.memory, self.recipe = table, vocabulary, memory, recipe
        self.lessons = lessons(table, recipe.sample, seed)
        self.spec = model.spec
        self.live = model.train()
        self.model = copy.deepcopy(model).eval()
        self.order = np.argsort(table.timestamps, kind="stable")
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.running = running
        self.seed = seed
        self.head = head  # so many events are in the start already: they are not predicted
        self.log = Prequential(every)
        self.optimiser = _optimiser(self.live, recipe)
        self.fitted = head  # events that the items were last fitted to
        self.events = 0  # how far the stream is
        self.step = 0

    def __repr__(self) -> str:
        return f"<Streamer at event {self.events} of {len(self.table)}>"

    @property
    def is_done(self) -> bool:
        return self.events >= len(self.table)

    def advance(self) -> None:
        """One mini-batch."""
        rows = np.sort(self.order[self.events : self.events + self.recipe.events_per_batch])
        users, coming = zip(*self._coming(rows), strict=True)
        packed = pack(
            coming,
            self.memory.read(coming),
            self.vocabulary,
            self.spec,
            random=self.random,
            longest_session=self.recipe.longest_session,
        )
        scores, records = self._predict(packed)
        if self.events >= self.head:
            sizes = [_size(new) for new in coming]
            self.log.add(scores, packed.new.feedback.numpy(), np.repeat(users, sizes))
        self._learn(packed, torch.from_numpy(self.lessons.labels[rows]))
        cuts = np.cumsum([_size(new) for new in coming])[:-1]
        self.memory.write(coming, np.split(encoded(records, self.spec), cuts))
        self.events += len(rows)
        self._refit()

    def _coming(self, rows: Array) -> Iterator[tuple[int, Coming]]:
        """The events of a mini-batch by user, each with the user's number."""
        table = self.table
        users = np.searchsorted(table.offsets, rows, "right") - 1
        _, starts = np.unique(users, return_index=True)
        for part in np.split(rows, starts[1:]):
            user = int(np.searchsorted(table.offsets, part[0], "right")) - 1
            yield (
                user,
                Coming(
                    table.user_ids[user],
                    [table.item_ids[item] for item in table.items[part].tolist()],
                    table.timestamps[part],
                    table.labels[part],
                    table.feedback_timestamps[part],
                ),
            )

    @torch.no_grad()
    def _predict(self, packed: Packed) -> tuple[Array, Array]:
        """Probabilities (T, tasks) before anything of these events is learned, and records."""
        logits, records = self.model.forward_packed(
            packed.history, packed.missed, packed.new, packed.blocks
        )
        return torch.sigmoid(logits).numpy(), records.numpy()

    def _learn(self, packed: Packed, labels: Tensor) -> None:
        """One step on what the labels (T, tasks) say of the new events."""
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = group["most"] * min(1.0, (self.step + 1) / recipe.warmup_steps)
        items = packed.new.items
        missed = packed.missed
        if recipe.miss_rate:
            missed = missed | (
                torch.rand(missed.shape, generator=self.generator) < recipe.miss_rate
            )
        new = packed.new._replace(items=self._forgotten(items))
        logits, _ = self.live.forward_packed(packed.history, missed, new, packed.blocks)
        known = labels != UNKNOWN
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits[known], labels[known].float(), reduction="sum"
        )
        self.optimiser.zero_grad()
        (loss / recipe.events_per_batch).backward()
        nn.utils.clip_grad_norm_(self.live.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._average()
        if self.events >= self.head:
            self.running.observe(items, labels)
        self.running.apply((self.live, self.model))

    def _refit(self) -> None:
        """Fits items to the log so far, once that has grown enough, and at its end.

        Together these fits cost as much as a few of the whole log, however long that is.
        """
        growth, running = self.recipe.growth, self.running
        has_grown = self.events >= growth * self.fitted or self.is_done
        if not growth or not running.factors.numel() or not has_grown or self.events <= self.head:
            return
        so_far = np.zeros(len(self.table), np.bool_)
        so_far[self.order[: self.events]] = True
        running.refit((self.live, self.model), self.lessons.take(so_far), self.seed)
        self.fitted = self.events

    def _forgotten(self, items: Tensor) -> Tensor:
        """`items`, a few of them on fallback rows, so that unknown items mean something."""
        drop = torch.rand(items.shape, generator=self.generator) < self.recipe.id_dropout
        first = len(self.vocabulary)
        fallback = torch.randint(
            first, first + self.spec.fallback_rows, items.shape, generator=self.generator
        )
        return torch.where(drop, fallback, items)

    @torch.no_grad()
    def _average(self) -> None:
        weight = 1 - min(self.recipe.average, (self.step + 1) / (self.step + 10))
        kept, now = (tuple(model.parameters()) for model in (self.model, self.live))
        torch._foreach_lerp_(kept, now, weight)


def lessons(table: EventTable, share: float, seed: int) -> EventTable:
    """The same events, of a share of which the labels are told; drawn by the seed."""
    if share >= 1:
        return table
    told = np.random.default_rng(seed).random(len(table)) < share
    return replace(table, labels=np.where(told[:, None], table.labels, UNKNOWN))


def _size(new: Coming) -> int:
    return len(new.item_ids)


def _optimiser(model: Marm, recipe: StreamRecipe) -> torch.optim.Optimizer:
    """Tables by item learn at a rate of their own."""
    tables: list[Tensor] = []
    shared: list[Tensor] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            by_item = name.startswith(("embedding", "item_bias"))
            (tables if by_item else shared).append(weight)
    rate = recipe.learning_rate
    groups = [
        {"params": tables, "most": rate * recipe.table_rate},
        {"params": shared, "most": rate},
    ]
    return torch.optim.AdamW(
        groups, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
