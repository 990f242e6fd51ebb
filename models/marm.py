"""Marm: stacked target attention whose outputs are cached layer by layer (arXiv 2411.09425).

Layer l lets the target of depth l-1 attend to the history's records of depth l-1. A record of an
event is what the event's item was as a target when it was exposed, so it depends on the events
before it and on nothing later, not even on its own feedback: computed once, it can be cached.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attention import normalised
from models.blocks import Blocks
from models.ranking_model import History, RankingModel

#: Events whose records are made at once.
LEAST_BLOCK = 256


class Marm(RankingModel):
    """The family that the cache is for."""

    def forward_targets(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        targets: Tensor,
        visible: Tensor,
        asked_at: Tensor,
    ) -> Tensor:
        if self.spec.search:
            return self.forward_found(items, timestamps, feedback, targets, visible, asked_at)
        T, M = items.shape[1], targets.shape[1]
        position = torch.arange(T, device=items.device)
        ends = torch.cat([position.expand_as(items), visible], dim=1)  # (B, T + M)
        asked = torch.cat([timestamps, asked_at], dim=1)
        gaps = asked[:, :, None] - timestamps[:, None, :]  # (B, T + M, T)
        masked = self._hidden(self._unseen(ends[:, :, None], position), feedback)
        biases = self._biases(gaps, masked)
        prior = self._prior(items)
        known = self.embedding(items)  # the history's records at the current depth
        start = known if targets is items else self.embedding(targets)
        # What was exposed, then what is asked.
        stream = torch.cat([self._exposed(known, feedback), start], dim=1)
        outputs = normalised(stream)
        logits: Tensor = self.item_bias(targets)
        for depth, layer in enumerate(self.layers):
            bias = biases[depth]
            if depth == self.spec.depth - 1:
                # Nothing attends to the last layer's records: only what is asked goes on.
                outputs, stream, bias = outputs[:, T:], stream[:, T:], bias[:, :, T:]
            found = layer.attend(outputs, *layer.project(known, prior, feedback), bias)
            stream = layer.mix(stream, found)
            outputs = normalised(stream)
            known = outputs[:, :-M]
            logits = logits + self._read_out(depth, start, found[:, -M:], outputs[:, -M:])
        return logits

    def forward_cached(self, candidates: Tensor, timestamp: Tensor, history: History) -> Tensor:
        """Only the candidates' own steps, against cached records."""
        gaps = timestamp[:, None, None] - history.timestamps[:, None, :]  # (B, 1, R)
        masked = self._missed(candidates, history, gaps >= 0)
        return self.answer(candidates, gaps, masked, history)

    def answer(
        self, candidates: Tensor, gaps_s: Tensor, masked: Tensor, history: History
    ) -> Tensor:
        biases = self._biases(gaps_s, masked)
        fed = self._prior(history.items), history.feedback
        start = self.embedding(candidates)
        known = self.embedding(history.items)
        stream, outputs = start, normalised(start)
        logits: Tensor = self.item_bias(candidates)
        for depth, layer in enumerate(self.layers):
            found = self._found(depth, outputs, known, fed, biases[depth])
            stream = layer.mix(stream, found)
            outputs = normalised(stream)
            logits = logits + self._read_out(depth, start, found, outputs)
            if depth < self.spec.hidden_depths:
                known = history.records[:, :, depth]
        return logits

    def forward_packed(
        self, history: History, missed: Tensor, new: History, blocks: Blocks
    ) -> tuple[Tensor, Tensor]:
        """Logits and records of T new events of many users, from what is cached of them.

        Users lie one after another in one row, without a batch axis: history (R, ...), whose
        records take no gradient, and new (T, ...), whose records are not looked at. Layers that
        would read a record which is `missed` (R,) do not see its event. Returns (T, tasks) and
        (T, hidden depths, width).
        """
        T = len(new.items)
        items, feedback = (
            torch.cat([old, fresh])
            for old, fresh in ((history.items, new.items), (history.feedback, new.feedback))
        )
        biases = self._biases(
            blocks.gaps_s,
            self._hidden(blocks.unseen, feedback[blocks.keys]),
            nn.functional.pad(missed, (0, T))[blocks.keys][:, None] if missed.any() else None,
        )
        prior = self._prior(items)
        known = self.embedding(items)
        start = known[-T:]
        stream = torch.cat([start, start])  # as exposed, then as asked about
        outputs = normalised(stream)
        targets = torch.cat([blocks.targets, blocks.targets + T], dim=1)
        S = blocks.targets.shape[1]
        block, place = blocks.places // S, blocks.places % S
        back = torch.cat([2 * S * block + place, 2 * S * block + S + place])
        logits: Tensor = self.item_bias(new.items)
        records = []
        for depth, layer in enumerate(self.layers):
            bias = biases[depth]
            if depth == self.spec.hidden_depths:
                # Nothing reads the last layer's records: only what is asked about goes on.
                outputs, stream, bias = outputs[T:], stream[T:], bias[:, :, S:]
                targets, back = blocks.targets, blocks.places
            # An embedding's look-up, because its gradient is added up row by row, not by number.
            keys, values = (
                nn.functional.embedding(blocks.keys, part)
                for part in layer.project(known, prior, feedback)
            )
            asking = nn.functional.embedding(targets, outputs)
            found = layer.attend(asking, keys, values, bias)
            found = nn.functional.embedding(back, found.reshape(-1, self.spec.width))
            stream = layer.mix(stream, found)
            outputs = normalised(stream)
            if depth < self.spec.hidden_depths:
                records.append(outputs[:T])
                known = torch.cat([history.records[:, depth], records[-1]])
            logits = logits + self._read_out(depth, start, found[-T:], outputs[-T:])
        if not records:
            return logits, start.new_zeros(T, 0, self.spec.width)
        return logits, torch.stack(records, dim=1)

    def append(
        self, history: History, items: Tensor, timestamps: Tensor, feedback: Tensor
    ) -> Tensor:
        """Records of T new events that follow cached ones: (B, T, depth - 1, width)."""
        R, T = history.items.shape[1], items.shape[1]
        position = torch.arange(R + T, device=items.device)
        times = torch.cat([history.timestamps, timestamps], dim=1)
        gaps = timestamps[:, :, None] - times[:, None, :]  # (B, T, R + T)
        # Padding lies in the future of every event.
        unseen = self._unseen(position[R:, None], position) | (gaps < 0)
        prior = self._prior(torch.cat([history.items, items], dim=1))
        feedback = torch.cat([history.feedback, feedback], dim=1)
        biases = self._biases(gaps, self._hidden(unseen, feedback))
        stream = self.embedding(items)
        known = torch.cat([self.embedding(history.items), stream], dim=1)
        outputs = normalised(stream)
        records = []
        for depth in range(self.spec.hidden_depths):
            layer = self.layers[depth]
            found = layer.attend(outputs, *layer.project(known, prior, feedback), biases[depth])
            stream = layer.mix(stream, found)
            outputs = normalised(stream)
            records.append(outputs)
            known = torch.cat([history.records[:, :, depth], outputs], dim=1)
        if not records:
            none: Tensor = stream.new_zeros(*stream.shape[:2], 0, self.spec.width)
            return none
        return torch.stack(records, dim=2)

    def encode(
        self,
        items: Tensor,
        timestamps: Tensor,
        feedback: Tensor,
        needed: Tensor | None = None,
    ) -> Tensor:
        """Records of a whole timeline from nothing: (B, T, depth - 1, width).

        In blocks, because a window is all that an event of any of them attends to. Where `needed`
        (B, T) says that nothing asks for a block, it is left out.
        """
        B, T = items.shape
        block = max(self.spec.window, LEAST_BLOCK)
        none = self.expectation.new_zeros(B, 0, self.spec.hidden_depths, self.spec.width)
        wanted = torch.ones(T, dtype=torch.bool) if needed is None else needed.any(dim=0)
        parts = [none]
        for first in range(0, T, block):
            new = slice(first, first + block)
            if not wanted[first : first + block + self.spec.record_field].any():
                parts.append(none.new_zeros(B, items[:, new].shape[1], *none.shape[2:]))
                continue
            span = slice(max(0, first - self.spec.window), first)
            records = parts[-1][:, -self.spec.window :]
            history = History(items[:, span], timestamps[:, span], feedback[:, span], records)
            parts.append(self.append(history, items[:, new], timestamps[:, new], feedback[:, new]))
        return torch.cat(parts, dim=1)

    def _exposed(self, start: Tensor, feedback: Tensor) -> Tensor:
        """What an event's record is made from: its item, and nothing of its own feedback.

        So late feedback spoils no record of its own event, and a record equals what the item
        was as a candidate. Feeding it in gains nothing (docs/numbers.md).
        """
        return start
