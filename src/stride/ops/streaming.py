"""Routed experts that stay on disk: `_cpu.ExpertReader` reads them as they are wanted, to where `ExpertCache` says.

What a step computes does not depend on what was in memory: experts are added up by ascending number, wave after wave.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from stride import _cpu
from stride.errors import InsufficientMemoryError, ModelFileError
from stride.experts.policy import DEFAULT, PolicyChoice
from stride.gguf import Tensor
from stride.ops import disk
from stride.ops.api import FloatArray, GatedFFN, IntArray, StreamCounts
from stride.ops.expert_cache import ExpertCache, Wave, least_slots
from stride.ops.pressure import Pressure, available_bytes

EXPECTED_SHARE = 8
"""One slot in so many is for experts that are expected, but no more than `EXPECTED_TOKENS` use in a layer."""
EXPECTED_TOKENS = 6
"""Of one token, two would do; a prompt's layers have longer attention, in which the disk is not to rest."""
FEW_TOKENS = 8
"""Up to so many, a step's time is the reading of experts that were not foreseen; with more, nearly all are wanted."""
PACKED_ROWS = 256
"""Of a matrix, packed to see how long it takes."""
SHRINK_SHARE = 16
"""One slot in so many is given back at least when memory is short, and taken again."""
Shared: TypeAlias = tuple[_cpu.Weight | None, _cpu.Weight | None, _cpu.Weight | None, float]
"""The shared expert's gate, up, down and limit."""
NO_SHARED: Shared = (None, None, None, 0.0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stack of matrices lies: that of expert e at byte ``offset + e * stride``.

    ``packed``: as `stride pack` writes it, else as in the model's file, of which ``tensor`` is.
    """

    tensor: Tensor
    shape: _cpu.MatrixShape
    path: Path
    offset: int
    stride: int
    packed: bool


class ExpertStream:
    """The routed experts of a model, in as much memory as there is for them.

    Args:
        layers: gate, up and down of each layer with experts.
        n_bytes: memory for slots.
        top_k: experts that one token uses in a layer.
        choice: which expert goes when another needs its slot.
        available: bytes of memory that are to be had now: where there are few, slots are given back.

    Raises:
        InsufficientMemoryError: too little for one token.
        ModelFileError: a file cannot be read.
    """

    def __init__(
        self,
        engine: _cpu.Engine,
        layers: Sequence[Sequence[Place]],
        n_bytes: int,
        top_k: int,
        choice: PolicyChoice = DEFAULT,
        available: Callable[[], int] = available_bytes,
    ) -> None:
        self._engine = engine
        self.layers = layers
        self._index = {layer[0].shape: i for i, layer in enumerate(layers)}
        files: dict[Path, int] = {}
        largest = max((place for layer in layers for place in layer), key=lambda place: place.tensor.n_bytes)
        try:
            self.disk = disk.probe(largest.path, largest.offset, largest.tensor.n_bytes)
            for layer in layers:
                for place in layer:
                    if place.path not in files:
                        files[place.path] = disk.open_for_reading(place.path, direct=self.disk.direct)
            sources = [
                [_cpu.ExpertSource(p.shape, files[p.path], p.offset, p.stride, p.packed) for p in layer]
                for layer in layers
            ]
            self.slot_bytes = _cpu.slot_bytes(sources)
            n_slots = n_bytes // self.slot_bytes
            n_experts = max(layer[0].tensor.shape[0] for layer in layers)
            self._pack_rate = math.inf if largest.packed else _pack_rate(largest)
            self._n_experts = sum(layer[0].tensor.shape[0] for layer in layers)
            n_slots = min(n_slots, self._n_experts)
            least = least_slots(top_k)
            if n_slots < least:
                raise InsufficientMemoryError(
                    f"{n_bytes} bytes for routed experts are too few: one token needs {least * self.slot_bytes}",
                    could_ever_fit=True,
                )
            self._reader = _cpu.expert_reader(
                sources, list(files.values()), n_slots, self.disk.n_readers, self.disk.block_bytes
            )
        except OSError as error:
            for file in files.values():
                os.close(file)
            raise ModelFileError(str(error), path=largest.tensor.path, tensor=largest.tensor.name) from error
        except BaseException:
            for file in files.values():
                os.close(file)
            raise
        n_expected = min(n_slots // EXPECTED_SHARE, EXPECTED_TOKENS * top_k, n_slots - least, self._n_experts - n_slots)
        self.cache = ExpertCache(choice, len(layers), n_experts, n_slots, n_expected)
        self._most_slots, self._least_slots = n_slots, least + n_expected
        self._pressure = Pressure(n_slots * self.slot_bytes // SHRINK_SHARE, available)
        self._trial = Trial()

    @property
    def counts(self) -> StreamCounts:
        own = self.cache.counts
        read_bytes, waited_seconds, _, _ = self._reader.counts
        return StreamCounts(
            own.hits,
            own.misses,
            own.expected,
            own.came_true,
            read_bytes,
            waited_seconds,
            self.cache.n_slots,
            self.slot_bytes,
            self._n_experts,
            self.disk.bytes_per_second,
            self._pack_rate,
        )

    def experts(
        self, x: FloatArray, ids: IntArray, weights: FloatArray, routed: GatedFFN, shared: GatedFFN | None
    ) -> FloatArray:
        """`Backend.experts`.

        Raises:
            ModelFileError: an expert could not be read; a later call tries anew.
        """
        self._follow_pressure()
        layer = self._index[routed.gate]
        wanted = sorted(set(ids.ravel().tolist()))
        cache = self.cache
        out: FloatArray | None = None
        also: Shared = NO_SHARED if shared is None else (shared.gate, shared.up, shared.down, shared.limit)
        waves = cache.waves(layer, wanted)
        pinned = cache.keys(layer, wanted)
        entered: list[Wave] = []
        waited_before = self._reader.counts[1]
        try:
            self._enter(layer, waves[0], pinned, entered)
            for i, wave in enumerate(waves):
                is_last = i + 1 == len(waves)
                if not is_last:
                    self._enter(layer, waves[i + 1], pinned, entered)
                out = self._engine.streamed_experts(
                    x,
                    ids,
                    weights,
                    self._reader,
                    layer,
                    _slots_of(wave, cache.tables[layer], len(waves) == 1),
                    routed.limit,
                    *(also if is_last else NO_SHARED),
                    out,
                )
                pinned -= cache.keys(layer, wave.experts)
        except BaseException as error:
            self._forget_unread(layer, entered)
            if isinstance(error, _cpu.ReadError):
                raise self._file_error(layer, *error.args) from None
            raise
        for slot in cache.overtaken(layer):
            self._reader.cancel(slot)
        if len(x) <= FEW_TOKENS:
            self._trial.note(self._reader.counts[1] - waited_before)
        assert out is not None
        return out

    def _enter(self, layer: int, wave: Wave, pinned: set[int], entered: list[Wave]) -> None:
        entered.append(wave)
        for slot in self.cache.enter(layer, wave, pinned):
            self._reader.promote(slot)
        if wave.missing:
            self._reader.request(layer, wave.missing, wave.slots, wanted=True)

    def _forget_unread(self, layer: int, waves: Sequence[Wave]) -> None:
        """What a step wanted and is not there whole: it failed, or may yet."""
        table = self.cache.tables[layer]
        for wave in waves:
            for expert in wave.experts:
                if table[expert] >= 0 and not self._reader.is_ready(int(table[expert])):
                    self.cache.forget(layer, expert)

    def _file_error(self, layer: int, slot: int, part: int, offset: int, number: int) -> ModelFileError:
        place = self.layers[layer][part]
        reason = f"cannot be read: {os.strerror(number)}" if number else "the file ends before that"
        return ModelFileError(reason, path=place.path, tensor=place.tensor.name, offset=offset)

    def _follow_pressure(self) -> None:
        """Where memory is short, give slots back; later, take them again."""
        change = self._pressure.change()
        if change == 0:
            return
        n_slots = self.cache.n_slots + change // self.slot_bytes
        n_slots = min(self._most_slots, max(self._least_slots, n_slots))
        if n_slots != self.cache.n_slots:
            for slot in self.cache.resize(n_slots):
                self._reader.release(slot)

    # --- reading ahead ---

    @property
    def looks_ahead(self) -> bool:
        """Whether experts that are expected are read ahead now."""
        return self.cache.n_expected > 0 and self._trial.is_on

    def expect(self, routed: GatedFFN, ids: IntArray) -> None:
        """Read experts that a layer is likely to want, after all that is wanted already.

        Args:
            ids: int32 [tokens, k], the likeliest first.
        """
        layer = self._index[routed.gate]
        new, slots = self.cache.expect(layer, list(dict.fromkeys(ids.T.ravel().tolist())))
        if new:
            self._reader.request(layer, new, slots, wanted=False)


class Trial:
    """Whether reading ahead pays: it is on for some uses of experts, off for some, and then stays as it waited less."""

    USES = 256
    """Of a layer's experts by few tokens, with it and without, in a trial."""
    STAY = 30
    """Times as many uses until the next trial."""

    def __init__(self) -> None:
        self.is_on = True
        self._waited: dict[bool, float] = {}
        self._sum, self._left, self._stays = 0.0, self.USES, False

    def note(self, seconds: float) -> None:
        """Experts were used, for which nothing else was done for so many seconds."""
        self._sum += seconds
        self._left -= 1
        if self._left:
            return
        if self._stays:
            self._stays = False
        else:
            self._waited[self.is_on] = self._sum
            self.is_on = not self.is_on
        if len(self._waited) == 2:
            self.is_on = self._waited[True] < self._waited[False]
            self._waited.clear()
            self._stays = True
        self._sum, self._left = 0.0, self.USES * (self.STAY if self._stays else 1)


def _pack_rate(place: Place) -> float:
    """Bytes per second that one thread packs; takes a few milliseconds."""
    rows, columns = min(PACKED_ROWS, place.tensor.shape[1]), place.tensor.shape[2]
    weight = _cpu.weight(place.shape.type, 1, rows, columns)
    data = np.zeros((rows, place.tensor.n_bytes // (place.tensor.shape[0] * place.tensor.shape[1])), np.uint8)
    times = []
    for _ in range(3):  # at first, memory comes page by page
        start = time.perf_counter()
        weight.pack(0, 0, data)
        times.append(time.perf_counter() - start)
    return data.nbytes / min(times)


def _slots_of(wave: Wave, table: IntArray, all_of_it: bool) -> IntArray:
    """Of each expert its slot, -1 where it is not of the wave; ``all_of_it``: nobody looks at others."""
    if all_of_it:
        return table
    slots = table.copy()
    slots.fill(-1)
    slots[wave.experts] = table[wave.experts]
    return slots
