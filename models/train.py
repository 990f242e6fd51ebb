"""Training: sequence-parallel over whole timelines, in time order, stopped on unseen users."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.events import UNKNOWN, EventTable, validation_users
from models.families import MODELS
from models.negatives import Asked, Negatives
from models.ranking_model import RankingModel
from models.sequences import LONGEST_PIECE, Batch, batches, padded, pieces, sessions
from models.spec import Spec
from models.start import start

Array = np.ndarray[Any, Any]


#: Below this share of what the mean label alone would lose, something has been learned.
LEARNED = 0.98


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    It stops once `patience_epochs` and `patience_steps` have passed without a better loss on
    unseen users. While nothing has been learned yet, `plateau_steps` must pass: what hangs on
    order alone shows no progress until two layers have found each other.
    """

    epochs: int | None = None  # at most; None: as many as `most_steps` allow
    most_steps: int = 3_000
    patience_epochs: int = 2
    patience_steps: int = 150
    plateau_steps: int = 1_500
    events_per_batch: int = 1_600
    learning_rate: float = 1e-3
    table_rate: float = 0.3  # of the learning rate, for embeddings and item biases
    warmup_steps: int = 200  # a good start is improved gently
    weight_decay: float = 0.01
    average: float = 0.98  # of the weights, per step: what is evaluated and exported
    id_dropout: float = 0.02  # events whose item becomes unknown, so that fallback rows learn
    longest_session: int = 64
    dropout: float = 0.1
    negatives: int = 0  # drawn for every event, where all of them are positives
    negative_sampling: str = "uniform"
    reconstruction: float = 0.1  # weight of what a summary loses of the events, where there is one


@dataclass(frozen=True, slots=True)
class Progress:
    """What a progress bar shows."""

    epoch: int
    step: int
    most_steps: int
    loss: float
    validation_loss: float


@dataclass(frozen=True, slots=True)
class Trained:
    """The weights that were best on unseen users, and when that was."""

    model: RankingModel
    epochs: int
    steps: int
    validation_loss: float


def train(
    table: EventTable,
    spec: Spec,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    kind: type[RankingModel] | None = None,
    categories: Array | None = None,
    on_step: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Trains on every event of `table` (hold out before); the same weights for the same seed.

    Stops early on the loss over all events of the 5% of users who are not trained on, and
    returns the weights that were best there. A search by category takes the items' `categories`,
    (items,) int64.
    """
    kind = kind or MODELS[spec.family]
    return Trainer(table, spec, recipe or Recipe(), seed, kind, categories).run(on_step)


class Trainer:
    """One training: its batches, its model, and the steps between them."""

    def __init__(
        self,
        table: EventTable,
        spec: Spec,
        recipe: Recipe,
        seed: int,
        kind: type[RankingModel],
        categories: Array | None,
    ) -> None:
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        # A debugging aid that deterministic mode brings along, and slow.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.table, self.spec, self.recipe = table, spec, recipe
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        unseen = validation_users(table.user_ids) & (table.counts > 0)
        self.train_groups = self._groups(np.flatnonzero(~unseen))
        self.negatives = Negatives.of(table, recipe.negatives, recipe.negative_sampling)
        self.validation = [
            (batch, self._asked(batch, np.random.default_rng(0)))
            for batch in (padded(table, group) for group in self._groups(np.flatnonzero(unseen)))
        ]
        self.trivial_loss = _trivial_loss([asked for _, asked in self.validation])
        self.model = kind(spec, len(table.item_ids), dropout=recipe.dropout)
        seen = table.take(~unseen[table.users])
        if spec.finds_first and categories is not None:
            self.model.categories[: len(categories)] = torch.from_numpy(categories)
        start(self.model, seen, seed, drawn=recipe.negatives)
        self.averaged = copy.deepcopy(self.model).eval()
        self.optimiser = torch.optim.AdamW(
            self._groups_of_weights(),
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.step = 0

    def _groups(self, users: Array) -> list[list[Any]]:
        # A summary is made in one walk, so that no timeline need be cut.
        longest = self.spec.history or LONGEST_PIECE
        parts = pieces(self.table, users, self.table.counts, self.spec.receptive_field, longest)
        return batches(parts, self.recipe.events_per_batch)

    def _groups_of_weights(self) -> list[dict[str, Any]]:
        """Tables by item learn slower than what is shared: they start from a fit of their own."""
        tables: list[Tensor] = []
        shared: list[Tensor] = []
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                by_item = name.startswith(("embedding", "item_bias"))
                (tables if by_item else shared).append(weight)
        rate = self.recipe.learning_rate
        return [
            {"params": tables, "most": rate * self.recipe.table_rate},
            {"params": shared, "most": rate},
        ]

    def run(self, on_step: Callable[[Progress], None]) -> Trained:
        recipe = self.recipe
        per_epoch = max(1, len(self.train_groups))
        epochs = recipe.epochs or max(1, recipe.most_steps // per_epoch)
        best, best_epoch, best_loss = self.averaged, 0, float("inf")
        epoch = 0
        for epoch in range(1, epochs + 1):
            for index in self.random.permutation(len(self.train_groups)):
                loss = self._learn(padded(self.table, self.train_groups[index]))
                on_step(Progress(epoch, self.step, epochs * per_epoch, loss, best_loss))
            validation_loss = self._validation_loss()
            if not self.validation or validation_loss < best_loss:
                best, best_epoch = copy.deepcopy(self.averaged), epoch
                best_loss = validation_loss
            waited = epoch - best_epoch
            learned = best_loss < LEARNED * self.trivial_loss
            patience = recipe.patience_steps if learned else recipe.plateau_steps
            if waited > recipe.patience_epochs and waited * per_epoch > patience:
                break
        return Trained(best.eval(), best_epoch, self.step, best_loss)

    def _learn(self, batch: Batch) -> float:
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            warm = min(1.0, (self.step + 1) / recipe.warmup_steps)
            group["lr"] = group["most"] * warm
        items = self._forgotten(torch.from_numpy(batch.items))
        asked = self._asked(batch, self.random)
        others = self._forgotten(torch.from_numpy(asked.others))
        loss, known = self._loss(self.model, batch, asked, items, others)
        self.optimiser.zero_grad()
        # Divided by a constant: a batch of few known labels should not shout.
        (loss / (recipe.events_per_batch * (1 + recipe.negatives))).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._average()
        return float(loss.detach()) / max(1, known)

    def _asked(self, batch: Batch, random: np.random.Generator) -> Asked:
        visible = sessions(batch, random, self.recipe.longest_session)
        return self.negatives.beside(batch, visible, random)

    def _loss(
        self, model: RankingModel, batch: Batch, asked: Asked, items: Tensor, others: Tensor
    ) -> tuple[Tensor, int]:
        """Cross entropy summed over every known label of what is asked, and their number."""
        timestamps = torch.from_numpy(batch.timestamps)
        feedback, labels = torch.from_numpy(batch.feedback), torch.from_numpy(asked.labels)
        visible, shift = torch.from_numpy(asked.visible), torch.from_numpy(asked.shift)
        targets = torch.cat([items, others], dim=1) if others.numel() else items
        if self.spec.search or self.spec.summary:
            # Timelines are long, and of a target without a label nothing is learned.
            places = _first((labels != UNKNOWN).any(dim=-1))
            targets, visible, shift = (part.gather(1, places) for part in (targets, visible, shift))
            labels = labels.gather(1, places[..., None].expand(-1, -1, labels.shape[2]))
        asked_at = timestamps.gather(1, visible)
        logits, beside = model.forward_train(
            items, timestamps, feedback, targets, visible, asked_at
        )
        logits = logits - shift[..., None]
        known = labels != UNKNOWN
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits[known], labels[known].float(), reduction="sum"
        )
        if model.training:
            loss = loss + self.recipe.reconstruction * beside * known.any(dim=-1).sum()
        return loss, int(known.sum())

    def _forgotten(self, items: Tensor) -> Tensor:
        """`items`, a few of them on fallback rows, so that unknown items mean something."""
        drop = torch.rand(items.shape, generator=self.generator) < self.recipe.id_dropout
        fallback = torch.randint(
            len(self.table.item_ids),
            len(self.table.item_ids) + self.spec.fallback_rows,
            items.shape,
            generator=self.generator,
        )
        return torch.where(drop, fallback, items)

    @torch.no_grad()
    def _average(self) -> None:
        # Early on the average follows closely, or it would remember the start.
        weight = 1 - min(self.recipe.average, (self.step + 1) / (self.step + 10))
        for kept, now in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(now, weight)

    @torch.no_grad()
    def _validation_loss(self) -> float:
        total, count = 0.0, 0
        for batch, asked in self.validation:
            items, others = torch.from_numpy(batch.items), torch.from_numpy(asked.others)
            loss, known = self._loss(self.averaged, batch, asked, items, others)
            total, count = total + float(loss), count + known
        return total / count if count else float("inf")


def _first(wanted: Tensor) -> Tensor:
    """Where the wanted ones are, (B, N) int64 for the largest N of them; others fill up."""
    most = max(1, int(wanted.sum(dim=1).max()))
    return wanted.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :most]


def _trivial_loss(validation: list[Asked]) -> float:
    """What each task's mean label would lose on the validation users, per known label."""
    total, count = 0.0, 0
    for task in range(validation[0].labels.shape[2] if validation else 0):
        labels = np.concatenate([asked.labels[..., task].ravel() for asked in validation])
        labels = labels[labels != UNKNOWN]
        mean = labels.mean() if len(labels) else 0.0
        if 0 < mean < 1:
            total -= len(labels) * (mean * np.log(mean) + (1 - mean) * np.log(1 - mean))
        count += len(labels)
    return float(total / count) if count else 0.0
