"""Summaries: what the older events of a user come to, whatever their number.

An event adds the outer product of its features and its value to a table of sums, so that more
events need nothing of what came before but the table; tokens are read from it. `Dispatch` gives
the features and reads the tokens, and is what the families differ in.

An event's value is a history token's (`attention.Layer.project`), its key hears the item before
it and the time since as well: sums forget order, so it must be in what is added.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.spec import TIME_GAP_EDGES_S

#: Slots of the memory bank: this many half-keys, squared; and how many of them a token reads.
HALF_KEYS = 32
PICKED = 8

#: Experts' scores end here, so that sums of their exponentials need no running maximum.
MOST_SCORE = 8.0


class Intake(nn.Module):
    """Keys and values of events, each (..., width), from what is known of an event by itself."""

    def __init__(self, width: int, tasks: int, *, time_gap: bool) -> None:
        super().__init__()
        self.key = nn.Linear(2 * width, width)
        self.value = nn.Linear(width * (2 + tasks) + tasks, width, bias=False)
        self.feedback_key = nn.Parameter(torch.zeros(tasks, 3, width))
        self.feedback_value = nn.Parameter(torch.zeros(tasks, 3, width))
        self.gap_key = nn.Parameter(torch.zeros(len(TIME_GAP_EDGES_S) + 1, width))
        self.gap_key.requires_grad_(time_gap)

    def forward(
        self, items: Tensor, before: Tensor, expected: Tensor, feedback: Tensor, gaps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the vectors of items and of those before them, (..., width), what was expected of each
        (..., tasks), int8 feedback (..., tasks) and buckets of the time since the one before.
        """
        residual = torch.where(feedback < 0, 0.0, feedback - expected)
        states = torch.arange(-1, 2, device=feedback.device, dtype=feedback.dtype)
        state = (feedback[..., None] == states).to(items.dtype)  # (..., tasks, 3)
        keys = self.key(torch.cat([items, before], dim=-1)) + self.gap_key[gaps]
        keys = keys + torch.einsum("...ts,tsw->...w", state, self.feedback_key)
        scaled = [items, *(items * part for part in residual.split(1, dim=-1)), residual, before]
        values = self.value(torch.cat(scaled, dim=-1))
        return keys, values + torch.einsum("...ts,tsw->...w", state, self.feedback_value)


class Dispatch(nn.Module, ABC):
    """Features of events, and tokens from sums."""

    @abstractmethod
    def features(self, keys: Tensor) -> Tensor:
        """What each event adds its value to, (..., rows), from keys (..., width)."""

    @abstractmethod
    def tokens(self, state: Tensor) -> Tensor:
        """(B, tokens, width) from sums (B, rows, width + 1); their last column adds up features."""

    @abstractmethod
    def begin(self, silent: Tensor, generator: torch.Generator) -> None:
        """Sets out from tokens that are about the mean of values.

        The number `silent` of a key (width,) is set where nobody said anything of an event: such
        an event weighs little at first, or a few that say something would drown in many.
        """


class Seeds(Dispatch):
    """Vista's: virtual seeds by quasi-linear attention, O = phi(Q) phi(phi(K)' V), phi = SiLU.

    The inner product is a mean, of the events that a gate lets pass and of one more that says
    nothing: it neither grows with the history nor fades in one that is mostly noise. The mean of
    the values goes into each token by a weight of its own. arXiv 2510.22049.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.seeds = nn.Parameter(torch.zeros(tokens, width))
        self.share = nn.Parameter(torch.zeros(tokens, 1))
        self.gate = nn.Linear(width, 1)

    def features(self, keys: Tensor) -> Tensor:
        passed = torch.sigmoid(self.gate(keys))
        return torch.cat([nn.functional.silu(keys) * passed, passed], dim=-1)

    def tokens(self, state: Tensor) -> Tensor:
        mean = state[..., :-1] / (state[:, -1:, -1:] + 1.0)  # (B, width + 1, width)
        inner = nn.functional.silu(mean[:, :-1])
        outer: Tensor = nn.functional.silu(self.seeds) @ inner + self.share * mean[:, -1:]
        return outer

    def begin(self, silent: Tensor, generator: torch.Generator) -> None:
        self.seeds.normal_(0, 0.5, generator=generator)
        self.share.fill_(1.0)
        self.gate.weight.copy_(-silent)
        self.gate.bias.fill_(2.0)


class Experts(Dispatch):
    """Elastic's: interest experts, each a softmax over all events, and a memory that they read.

    Scores are bounded, so that a sum of exponentials is exact whenever it is continued. The
    memory has a slot for each pair of half-keys; a token reads the few that fit it best, which
    product keys find without looking at the others. A slot weighs what it fits better than the
    first that is not read, so that nothing jumps where two change places. arXiv 2408.09380.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.experts = nn.Linear(width, tokens)
        self.ask = nn.Linear(width, 2 * (width // 2), bias=False)
        self.half_keys = nn.Parameter(torch.zeros(2, HALF_KEYS, width // 2))
        self.memory = nn.Embedding(HALF_KEYS**2, width)

    def features(self, keys: Tensor) -> Tensor:
        scores = self.experts(keys) / math.sqrt(keys.shape[-1])
        return torch.exp(MOST_SCORE * torch.tanh(scores / MOST_SCORE))

    def tokens(self, state: Tensor) -> Tensor:
        found = state[..., :-1] / (state[..., -1:] + 1.0)  # (B, tokens, width)
        asked = self.ask(found).chunk(2, dim=-1)
        best = [
            (half @ keys.T).topk(PICKED + 1, dim=-1)
            for half, keys in zip(asked, self.half_keys, strict=True)
        ]
        (first, rows), (second, columns) = ((each.values, each.indices) for each in best)
        pairs = (first[..., :, None] + second[..., None, :]).flatten(-2)
        slots = (rows[..., :, None] * HALF_KEYS + columns[..., None, :]).flatten(-2)
        scores, places = pairs.topk(PICKED + 1, dim=-1)
        weights = scores[..., :-1] - scores[..., -1:]
        read = self.memory(slots.gather(-1, places[..., :-1]))  # (B, tokens, PICKED, width)
        read = (weights[..., None] * read).sum(dim=-2)
        tokens: Tensor = found + read / (weights.sum(dim=-1, keepdim=True) + 1.0)
        return tokens

    def begin(self, silent: Tensor, generator: torch.Generator) -> None:
        self.experts.weight.normal_(0, 1.0, generator=generator)
        self.experts.weight.sub_(math.sqrt(len(silent)) * silent)
        self.experts.bias.zero_()
        self.ask.weight.normal_(0, 1.0, generator=generator)
        self.half_keys.normal_(0, self.half_keys.shape[-1] ** -0.5, generator=generator)
        self.memory.weight.normal_(0, 0.02, generator=generator)
