"""Training of the stages before ranking: what the ranking model would say, for less.

The teacher is the ranking model, over candidates drawn from the whole catalogue, after random
beginnings of random timelines (`lessons.py`). Retrieval also learns what came next: sampled
softmax over the items that were liked soon after, its negatives drawn by popularity and corrected
for that (logQ). Users' own vectors, where there are any, learn mostly from that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.events import EventTable, validation_users
from models.known_users import KnownUsers
from models.lessons import MOST_USERS, Lesson, Lessons
from models.prerank import Prerank
from models.ranking_model import RankingModel
from models.retrieval import Retrieval
from models.spec import Spec
from models.teacher import Teacher

Array = np.ndarray[Any, Any]
Advance = Callable[[int, int], None]
M = TypeVar("M", Prerank, Retrieval)


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """How to train a stage; the learning rate falls to nothing along a cosine."""

    lessons: int = 4_000
    candidates: int = 192  # of each lesson
    cold: float = 0.05  # lessons without any history
    steps: int = 300
    lessons_per_step: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    #: How much what came next counts beside the teacher; retrieval only.
    softmax: float = 0.1
    negatives: int = 512
    soon: int = 10  # events after a lesson among which its positives are
    #: Lessons that do not say whose they are, so that the query goes on to serve unknown users.
    anonymous: float = 0.2
    #: Times the learning rate for users' vectors, because each of them is in few lessons.
    user_rate: float = 10.0
    #: How much the teacher, who knows no users, counts for those vectors: so they do not go astray.
    tether: float = 0.03


def stage_spec(ranker: Spec, stage: str, window: int, *, user_embedding: bool = False) -> Spec:
    """The shape of a stage, which reads no more records than are kept of the ranking model."""
    own = {"stage": stage, "window": min(window, ranker.reach), "user_embedding": user_embedding}
    return Spec.from_dict({**ranker.to_dict(), **own})


def start_retrieval(
    ranker: RankingModel, spec: Spec, known: KnownUsers, generator: torch.Generator
) -> Retrieval:
    """Sets out from the ranking model's own layers, read-outs and items; users are all alike."""
    model = Retrieval(spec, ranker.items, users=len(known))
    with torch.no_grad():
        if spec.user_embedding:
            model.user_hashes.copy_(torch.from_numpy(known.hashes.view(np.int64)))
        _copy_history_side(model, ranker)
        model.query.normal_(0, 0.3, generator=generator)
        for depth in range(spec.depth):
            model.from_found[depth, :, :-1] = torch.diag(ranker.match[depth, :, 0])
            model.from_found[depth, :, -1] = ranker.lean[depth, :, 0]
            model.from_output[depth, :, -1] = ranker.heads[depth, :, 0]
        model.table[:, :-1] = ranker.embedding(torch.arange(ranker.items))
        model.table[:, -1] = ranker.item_bias.weight[: ranker.items, 0]
    return model


def start_prerank(ranker: RankingModel, spec: Spec) -> Prerank:
    """Sets out from the ranking model's last layer; its items stay as they are."""
    model = Prerank(spec, ranker.items)
    with torch.no_grad():
        _copy_history_side(model, ranker)
        model.item_bias.weight.copy_(ranker.item_bias.weight)
        for own, theirs in ((model.heads, ranker.heads), (model.lean, ranker.lean)):
            own.copy_(theirs[-1:])
        model.match.copy_(ranker.match.sum(dim=0, keepdim=True))
    model.item_bias.requires_grad_(requires_grad=False)
    return model


def _copy_history_side(model: Retrieval | Prerank, ranker: RankingModel) -> None:
    model.embedding.load_state_dict(ranker.embedding.state_dict())
    model.embedding.requires_grad_(requires_grad=False)
    model.expectation.copy_(ranker.expectation)
    for own, theirs in zip(model.layers, ranker.layers[-len(model.layers) :], strict=True):
        cast("nn.Module", own).load_state_dict(cast("nn.Module", theirs).state_dict())


def train_stage(
    table: EventTable,
    teacher: Teacher,
    ranker: RankingModel,
    spec: Spec,
    recipe: StageRecipe | None = None,
    *,
    seed: int = 0,
    ask: Advance = lambda done, of: None,
    learn: Advance = lambda done, of: None,
) -> Retrieval | Prerank:
    """Trains on every event of `table`, whose items are the rows of `ranker`, the teacher's model.

    The same weights for the same seed on the same machine.
    """
    recipe = recipe or StageRecipe()
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    random = np.random.default_rng(seed)
    users = np.flatnonzero(~validation_users(table.user_ids) & (table.counts > 0))
    wanted = max(recipe.lessons, len(users)) if spec.user_embedding else recipe.lessons
    count = min(wanted, recipe.steps * recipe.lessons_per_step)
    lessons = Lessons.ask(
        teacher, table, users, random,
        count=count, candidates=recipe.candidates, cold=recipe.cold,
        most_users=max(MOST_USERS, count), advance=ask,
    )  # fmt: skip
    if spec.stage == "prerank":
        cheap = start_prerank(ranker, spec)
        return _learn(cheap, _distilled, lessons, recipe, random, learn)
    shown = np.bincount(table.items, minlength=ranker.items) + 1.0
    generator = torch.Generator().manual_seed(seed)
    taught = [table.user_ids[user] for user in lessons.users] if spec.user_embedding else []
    known = KnownUsers.of(taught)
    rows = torch.tensor([0, *(known.row(user_id, events=1) for user_id in taught)])
    model = start_retrieval(ranker, spec, known, generator)
    both = _RetrievalLoss(shown / shown.sum(), rows, recipe, random)
    return _learn(model, both, lessons, recipe, random, learn)


def _learn(
    model: M,
    loss_of: Callable[[M, Lesson], Tensor],
    lessons: Lessons,
    recipe: StageRecipe,
    random: np.random.Generator,
    advance: Advance,
) -> M:
    """The average of the weights on their way."""
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    weights = list(named.values())
    times = {"user_table": recipe.user_rate}
    optimiser = torch.optim.AdamW(
        [{"params": [weight], "times": times.get(name, 1.0)} for name, weight in named.items()],
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    averaged = copy.deepcopy(model).eval()
    for step in range(recipe.steps):
        warm = min(1.0, (step + 1) / recipe.warmup_steps)
        rate = recipe.learning_rate * warm * 0.5 * (1 + np.cos(np.pi * step / recipe.steps))
        for group in optimiser.param_groups:
            group["lr"] = rate * group["times"]
        which = random.integers(0, len(lessons), recipe.lessons_per_step)
        lesson = lessons.take(which, model.spec.window, recipe.soon)
        optimiser.zero_grad()
        loss_of(model, lesson).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        _average(averaged, model, step)
        advance(step + 1, recipe.steps)
    return averaged


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, step: int) -> None:
    weight = 1 - min(0.98, (step + 1) / (step + 10))
    for kept, now in zip(averaged.parameters(), model.parameters(), strict=True):
        kept.lerp_(now, weight)


def _distilled(model: Prerank, lesson: Lesson) -> Tensor:
    """Squared distance of logits: a teacher's order matters as much where it is sure."""
    logits = model.forward_cached(lesson.candidates, lesson.timestamps, lesson.history)
    return torch.mean((logits - lesson.taught) ** 2)


class _RetrievalLoss:
    """The teacher's answers, and what was liked soon after."""

    def __init__(
        self, popularity: Array, rows: Tensor, recipe: StageRecipe, random: np.random.Generator
    ) -> None:
        self._popularity, self._recipe, self._random = popularity, recipe, random
        self._user_rows = rows  # of nobody and of those whose lessons there are
        self._log_popularity = torch.from_numpy(np.log(popularity)).float()

    def __call__(self, model: Retrieval, lesson: Lesson) -> Tensor:
        recipe, user = self._recipe, model.user(lesson.timestamps, lesson.history)
        loss = _away(model, user, lesson) + recipe.softmax * self._next(model, user, *lesson.liked)
        if not model.spec.user_embedding:
            return loss
        own = model.user(lesson.timestamps, lesson.history, self._rows(lesson))
        loss = loss + recipe.tether * _away(model, own, lesson)
        return loss + recipe.softmax * self._next(model, own, *lesson.liked)

    def _rows(self, lesson: Lesson) -> Tensor:
        """Whose lesson each is, unless it is kept a secret."""
        is_secret = self._random.random(len(lesson.users)) < self._recipe.anonymous
        return self._user_rows[lesson.users].masked_fill(torch.from_numpy(is_secret), 0)

    def _next(self, model: Retrieval, user: Tensor, request: Tensor, liked: Tensor) -> Tensor:
        """Sampled softmax with logQ correction; what was drawn and is liked is no negative."""
        if not len(liked):
            return user.new_zeros(())
        drawn = torch.from_numpy(
            self._random.choice(model.items, self._recipe.negatives, p=self._popularity)
        )
        others = model.logits(user, model.table[drawn]) - self._log_popularity[drawn]
        own = _logits(user[request], model.table[liked]) - self._log_popularity[liked]
        others = others[request].masked_fill(drawn == liked[:, None], float("-inf"))
        everyone = torch.cat([own[:, None], others], dim=1)
        return torch.mean(torch.logsumexp(everyone, dim=1) - own)


def _away(model: Retrieval, user: Tensor, lesson: Lesson) -> Tensor:
    """Squared distance from the teacher's logits, over what retrieval has in its table."""
    is_item = lesson.candidates < model.items
    rows = model.table[lesson.candidates.clamp(max=model.items - 1)]  # (B, C, width + 1)
    away = (_logits(user[:, None], rows) - lesson.taught[..., 0]) ** 2
    return (away * is_item).sum() / is_item.sum()


def _logits(user: Tensor, rows: Tensor) -> Tensor:
    """`Retrieval.logits` where every user has rows of its own."""
    return (user[..., :-1] * rows[..., :-1]).sum(dim=-1) + rows[..., -1] + user[..., -1]
