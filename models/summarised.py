"""Summarised: Stca's layers over the newest events and the tokens of a summary of the older ones.

The summary covers the first events of a timeline in whole steps of `refresh_events`, so that it
is a function of the timeline; the window covers at least the rest. A token weighs as its share of
the covered events, by what each layer makes of their number, and nothing when there are none.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from models.attention import MASKED, Layer, gap_buckets, normalised
from models.ranking_model import History
from models.sequences import NEVER_S
from models.spec import TIME_GAP_EDGES_S, Spec
from models.stca import CrossAttention, Stca
from models.summary import Dispatch, Experts, Intake, Seeds

#: Candidates of one request in training: more of them are asked as several requests.
ASKED_TOGETHER = 16
#: Events that the trusted path adds to a summary at once.
STRETCH = 8_192
#: What every task's silence about an event adds to one number of its key, where training starts.
SILENCE = 8.0
#: Covered events of each request that its tokens must give back, in training.
REMEMBERED = 8


class SummaryAttention(CrossAttention):
    """A layer of `Summarised`: tokens stand between the null key and history."""

    def __init__(
        self,
        width: int,
        heads: int,
        tasks: int,
        *,
        below: int,
        window: int,
        tokens: int,
        time_gap: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            width, heads, tasks, below=below, window=window, time_gap=time_gap, dropout=dropout
        )
        self.token_key = nn.Linear(width, width, bias=False)
        self.token_value = nn.Linear(width, width, bias=False)
        # By how many events are covered, in powers of two; rows 0 and 1 are for none of them.
        events = 1.4 * 2.0 ** (torch.arange(len(TIME_GAP_EDGES_S) + 1) - 2)
        self.coverage = nn.Parameter(torch.log(events / tokens)[:, None].repeat(1, heads))


class Summarised(Stca):
    """Both ways to compute; a family says how events are dispatched to tokens."""

    def __init__(self, spec: Spec, items: int, *, dropout: float = 0.0) -> None:
        super().__init__(spec, items, dropout=dropout)
        self.nothing = nn.Parameter(torch.zeros(spec.width))  # before the first event
        self.intake = Intake(spec.width, len(spec.tasks), time_gap=spec.time_gap)
        self.dispatch = self._dispatch()
        self.recall = nn.Linear(2 * spec.width, spec.width)  # of an event, from tokens; training

    @abstractmethod
    def _dispatch(self) -> Dispatch: ...

    def _layer(self, depth: int, dropout: float) -> Layer:
        spec = self.spec
        return SummaryAttention(
            spec.width,
            spec.heads,
            len(spec.tasks),
            below=depth,
            window=spec.window,
            tokens=spec.summary,
            time_gap=spec.time_gap,
            dropout=dropout,
        )

    def summed(
        self, items: Tensor, before: Tensor, gaps_s: Tensor, feedback: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features (B, T, rows) and values (B, T, width + 1), whose outer products add up.

        items int64 (B, T); before int64 (B, T): the item of the event before, -1 where there is
        none; gaps_s int64 (B, T): seconds since; feedback int8 (B, T, tasks).
        """
        known = self.embedding(items)
        earlier = torch.where(
            (before < 0)[..., None], self.nothing, self.embedding(before.clamp(min=0))
        )
        buckets = gap_buckets(gaps_s.contiguous(), self.edges_s)
        expected = nn.functional.embedding(items, self.expectation)
        keys, values = self.intake(known, earlier, expected, feedback, buckets)
        return self.dispatch.features(keys), nn.functional.pad(values, (0, 1), value=1.0)

    def summarise(
        self, state: Tensor, items: Tensor, before: Tensor, gaps_s: Tensor, feedback: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums (B, rows, width + 1) with T more events, as in `summed`, and the tokens of them."""
        features, values = self.summed(items, before, gaps_s, feedback)
        state = state + features.transpose(1, 2) @ values
        return state, self.dispatch.tokens(state)

    def forward_targets(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> Tensor:
        return self._asked(items, timestamps, feedback, targets, visible, asked_at)[0]

    def forward_train(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> tuple[Tensor, Tensor]:
        logits, asked = self._asked(items, timestamps, feedback, targets, visible, asked_at)
        if not self.training or asked is None:
            return logits, logits.new_zeros(())
        return logits, self._lost(items, asked)

    def forward_cached(self, candidates: Tensor, timestamp: Tensor, history: History) -> Tensor:
        if history.summary is None or history.covered is None:
            raise ValueError("This is a bug: a summary is part of what a request reads.")
        tokens = self._tokens(history.summary, history.covered)
        R = history.items.shape[1]
        gaps = timestamp[:, None, None] - history.timestamps[:, None, :]  # (B, 1, R)
        ages = torch.arange(R - 1, -1, -1, device=candidates.device).expand_as(gaps)
        biases = self._seen(gaps, gaps < 0, ages)
        return self._scored(candidates, history.items, history.feedback, biases, tokens)

    def forward_after(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        candidates: Tensor,
        timestamp: int,
    ) -> Tensor:
        """As one request, so that a long timeline costs what it is long."""
        n, spec = len(items), self.spec
        covered = n // spec.refresh_events * spec.refresh_events
        before, gaps = _links(items[None], timestamps[None])
        state = self.expectation.new_zeros(1, spec.summary_rows, spec.width + 1)
        tokens = self.dispatch.tokens(state)
        for start in range(0, covered, STRETCH):
            span = slice(start, min(start + STRETCH, covered))
            state, tokens = self.summarise(
                state, items[None, span], before[:, span], gaps[:, span], feedback[None, span]
            )
        newest = slice(max(0, n - spec.window), n)
        records = state.new_zeros(1, n, 0, spec.width)
        history = History(
            items[None, newest], timestamps[None, newest], feedback[None, newest], records,
            tokens, torch.tensor([covered]),
        )  # fmt: skip
        return self.forward_cached(candidates[None], torch.tensor([timestamp]), history)[0]

    @torch.no_grad()
    def begin(self, n_factors: int, generator: torch.Generator) -> None:
        """From the same answer as the first layer's: the mean of residuals, alone and times items.

        Tokens carry it over all covered events, as the window does over its own.
        """
        width, tasks = self.spec.width, len(self.spec.tasks)
        for linear in (m for m in self.intake.modules() if isinstance(m, nn.Linear)):
            linear.weight.normal_(0, 0.7 * linear.in_features**-0.5, generator=generator)
        self.intake.key.bias.zero_()
        silent = torch.zeros(width)
        silent[-1] = 1.0
        self.intake.key.weight[-1] = 0
        self.intake.feedback_key[:, 0, -1] = SILENCE / tasks
        self.dispatch.begin(silent, generator)
        self.recall.weight.normal_(0, 0.1, generator=generator)
        self.recall.bias.zero_()
        if not self.layers:
            return
        first = cast("SummaryAttention", self.layers[0])
        ours = first.value.weight.shape[1]
        self.intake.value.weight[:, :ours] = first.value.weight
        self.intake.value.weight[:, ours:] *= 0.1
        last = [width - 1 - task for task in range(tasks) if width - 1 - task >= n_factors]
        self.intake.value.weight[last, ours:] = 0
        for depth, layer in enumerate(cast("Sequence[SummaryAttention]", self.layers)):
            layer.token_key.weight.mul_(0.1)
            if not depth:
                nn.init.eye_(layer.token_value.weight)

    def _asked(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> tuple[Tensor, _Asked | None]:
        """Logits (B, M, tasks) of targets, asked as so many requests; padding's may be anything."""
        spec = self.spec
        tasks = len(spec.tasks)
        asked = _Asked.of(visible, asked_at, asked_at < NEVER_S)
        if asked is None:
            return self.expectation.new_zeros(*targets.shape, tasks), None
        steps = asked.visible // spec.refresh_events
        sums = self._sums(items, timestamps, feedback, int(steps.max()))
        asked.tokens = self.dispatch.tokens(sums[asked.rows, steps])
        asked.covered = steps * spec.refresh_events
        tokens = self._tokens(asked.tokens, asked.covered)
        # The window of each request: its last events, the oldest first.
        ages = torch.arange(spec.window - 1, -1, -1, device=items.device)
        places = asked.visible[:, None] - 1 - ages  # (G, window)
        rows, seen = asked.rows[:, None], places.clamp(min=0)
        gaps = (asked.asked_at[:, None] - timestamps[rows, seen])[:, None]  # (G, 1, window)
        biases = self._seen(gaps, (places < 0)[:, None], ages.expand_as(gaps))
        candidates = targets[rows, asked.targets]
        logits = self._scored(candidates, items[rows, seen], feedback[rows, seen], biases, tokens)
        whole = logits.new_zeros(*targets.shape, tasks)
        at = (asked.rows[:, None].expand_as(asked.targets)[asked.real], asked.targets[asked.real])
        return whole.index_put(at, logits[asked.real]), asked

    def _sums(self, items: Tensor, timestamps: Tensor, feedback: Tensor, steps: int) -> Tensor:
        """Sums after 0, 1, … `steps` whole steps of events: (B, 1 + steps, rows, width + 1)."""
        B, step = len(items), self.spec.refresh_events
        count = steps * step
        before, gaps = _links(items, timestamps)
        parts = (items, before, gaps, feedback)
        features, values = self.summed(*(part[:, :count] for part in parts))
        features, values = (x.reshape(B, steps, step, x.shape[-1]) for x in (features, values))
        added = features.transpose(2, 3) @ values
        return nn.functional.pad(added.cumsum(dim=1), (0, 0, 0, 0, 1, 0))

    def _tokens(self, tokens: Tensor, covered: Tensor) -> Sequence[tuple[Tensor, ...]]:
        """Per layer keys and values (B, tokens, width) and their bias (B, heads, 1, tokens)."""
        layers = cast("Sequence[SummaryAttention]", self.layers)
        buckets = gap_buckets(covered, self.edges_s)
        wall = torch.where(covered > 0, 0.0, MASKED)[:, None]
        found: list[tuple[Tensor, ...]] = []
        for layer in layers:
            bias = torch.where(covered[:, None] > 0, layer.coverage[buckets], wall)
            bias = bias[:, :, None, None].expand(-1, -1, 1, tokens.shape[1])
            found.append((layer.token_key(tokens), layer.token_value(tokens), bias))
        return found

    def _scored(
        self,
        targets: Tensor,
        items: Tensor,
        feedback: Tensor,
        biases: Sequence[Tensor],
        tokens: Sequence[tuple[Tensor, ...]],
    ) -> Tensor:
        """Of targets (B, C) over tokens and events (B, R): (B, C, tasks)."""
        start, known, prior = self.embedding(targets), self.embedding(items), self._prior(items)
        unit = normalised(known)
        logits: Tensor = self.item_bias(targets)
        outputs = [normalised(start)]
        for depth, layer in enumerate(self.layers):
            stream = self._fused(depth, start, outputs)
            keys, values = layer.project(unit if depth else known, prior, feedback)
            token_keys, token_values, token_bias = tokens[depth]
            bias = biases[depth].expand(-1, token_bias.shape[1], -1, -1)
            bias = torch.cat([bias[..., :1], token_bias, bias[..., 1:]], dim=-1)
            found = layer.attend(
                normalised(stream),
                torch.cat([token_keys, keys], dim=1),
                torch.cat([token_values, values], dim=1),
                bias,
            )
            outputs.append(normalised(layer.mix(stream, found)))
            logits = logits + self._read_out(depth, start, found, outputs[-1])
        return logits

    def _lost(self, items: Tensor, asked: _Asked) -> Tensor:
        """How badly the tokens give back some covered events, each asked for by the one before it.

        The mean squared error of their vectors, in units of these vectors' own size.
        """
        some = asked.covered > 1
        if not some.any():
            return self.expectation.new_zeros(())
        tokens, rows = asked.tokens[some], asked.rows[some][:, None]
        share = torch.rand(len(tokens), REMEMBERED, device=items.device)
        places = 1 + (share * (asked.covered[some] - 1)[:, None]).long()
        with torch.no_grad():
            wanted = self.embedding(items[rows, places])
        before = self.embedding(items[rows, places - 1]).detach()
        scores = before @ tokens.transpose(1, 2) / math.sqrt(self.spec.width)
        recalled = self.recall(torch.cat([torch.softmax(scores, -1) @ tokens, before], dim=-1))
        size = wanted.square().mean().clamp(min=1e-6)
        lost: Tensor = (recalled - wanted).square().mean() / size
        return lost


class Vista(Summarised):
    """Virtual seeds by quasi-linear attention (arXiv 2510.22049)."""

    def _dispatch(self) -> Dispatch:
        return Seeds(self.spec.width, self.spec.summary)


class Elastic(Summarised):
    """Interest experts and their memory (arXiv 2408.09380)."""

    def _dispatch(self) -> Dispatch:
        return Experts(self.spec.width, self.spec.summary)


@dataclass(slots=True)
class _Asked:
    """Targets as requests of up to `ASKED_TOGETHER` of them: G requests, of rows of a batch."""

    rows: Tensor  # (G,) int64
    visible: Tensor  # (G,) int64: events before this position are seen
    asked_at: Tensor  # (G,) int64 seconds
    targets: Tensor  # (G, P) int64: places among a row's targets
    real: Tensor  # (G, P) bool: the others fill up
    tokens: Tensor = field(init=False)  # (G, tokens, width)
    covered: Tensor = field(init=False)  # (G,) int64

    @classmethod
    def of(cls, visible: Tensor, asked_at: Tensor, wanted: Tensor) -> _Asked | None:
        """Wanted targets of one row that see the same at the same time ask together."""
        rows, places = wanted.nonzero(as_tuple=True)
        if not len(rows):
            return None
        ends, moments = visible[rows, places], asked_at[rows, places]
        count = torch.arange(len(rows), device=rows.device)
        same = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        same[1:] = (rows[1:] == rows[:-1]) & (ends[1:] == ends[:-1]) & (moments[1:] == moments[:-1])
        within = count - torch.where(same, 0, count).cummax(0).values
        column = within % ASKED_TOGETHER
        group = (column == 0).cumsum(0) - 1
        first = column == 0
        shape = (int(group[-1]) + 1, int(column.max()) + 1)
        targets = places.new_zeros(shape)
        targets[group, column] = places
        real = torch.zeros(shape, dtype=torch.bool, device=rows.device)
        real[group, column] = True
        return cls(rows[first], ends[first], moments[first], targets, real)


def _links(items: Tensor, timestamps: Tensor) -> tuple[Tensor, Tensor]:
    """Of each event the item before it, -1 for the first, and the seconds since: (B, T) each."""
    before = nn.functional.pad(items[:, :-1], (1, 0), value=-1)
    gaps = nn.functional.pad(timestamps.diff(dim=1), (1, 0))
    T = items.shape[1]
    return before[:, :T], gaps[:, :T]
