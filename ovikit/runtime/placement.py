"""A memory plan at work: contexts that bring the part at work to the device, and take it away after.

The contexts follow each other and are never nested: text, network, codecs. Each is a phase, whose seconds and peak
memory are kept for the report.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ovikit.checkpoints.load import on_host
from ovikit.networks.joint import JointModel, at_hand
from ovikit.networks.protocols import Codec, Conditioner, Progress, Weighted
from ovikit.runtime.compile import compile_layers
from ovikit.runtime.plan import SLOTS, Chosen
from ovikit.runtime.quantize import covers, quantiser, round_in_parts
from ovikit.runtime.streaming import LayerStream, like, weights_of

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Phase:
    """What a phase took, over all times that it was entered.

    peak_bytes: the most that was allocated on the device; on the CPU, the process's resident memory
    """

    name: str
    seconds: float
    peak_bytes: int
    entered: int


class Placement:
    """Where the parts of one run lie, by a chosen plan."""

    def __init__(self, chosen: Chosen, device: torch.device | str) -> None:
        self.chosen, self.device = chosen, _numbered(torch.device(device))
        self._quantise = quantiser(chosen.quantization, chosen.dtype, self.device)
        self._home = self.device if chosen.plan == "full" else _CPU
        self._stream: tuple[JointModel, LayerStream] | None = None
        self._prepared: JointModel | None = None
        self._phases: dict[str, Phase] = {}

    def place(self, name: str, tensor: Tensor, scale: Tensor | None = None) -> Tensor:
        """A weight of the network where it lies between its uses, quantised if it is to be: ``Place`` of ``load``."""
        if self._quantise is not None and covers(name, tensor.shape):
            return self._quantise(tensor.to(self.device), scale).to(self._home)
        if self._home.type != "cpu":
            return tensor.to(self._home)
        # What is only copied to the device from time to time can stay in the mapped file.
        return on_host(name, tensor) if self.device.type == "cpu" else tensor

    @contextmanager
    def text(self, conditioner: Conditioner, progress: Progress | None = None) -> Iterator[None]:
        """The text encoder at work; it is gone afterwards under every plan. ``progress``: of loading it, in bytes."""
        with self._phase("text"):
            if not isinstance(conditioner, Weighted):
                yield
                return
            try:
                conditioner.load(_CPU if self.chosen.text_on_host else self.device, progress)
                yield
            finally:
                conditioner.unload()

    @contextmanager
    def codec(self, codec: Codec) -> Iterator[None]:
        """A codec at work. It stays on the device under plan ``full``."""
        with self._phase(f"{codec.modality} codec"):
            if not isinstance(codec, Weighted):
                yield
                return
            codec.load(self.device)
            try:
                yield
            finally:
                if self.chosen.plan != "full" and self.device.type != "cpu":
                    codec.load(_CPU)

    @contextmanager
    def network(self, model: JointModel) -> Iterator[None]:
        """The network at work: encoding of the text's keys and values, and denoising."""
        with self._phase("network"):
            self._prepare(model)
            if self.chosen.plan != "stream-layers":
                with self._on_device(model, keep=self.chosen.plan == "full"):
                    yield
                return
            stream = self._stream_of(model)
            with self._on_device(model, keep=False, apart_from=model.layers):
                stream.open()
                model.visit = stream.visit
                try:
                    yield
                finally:
                    model.visit = at_hand
                    stream.close()

    def _prepare(self, model: JointModel) -> None:
        """What is done to a model before its first use."""
        if self._prepared is model:
            return
        self._prepared = model
        if self.chosen.compile:
            compile_layers(model)
        elif self._quantise is not None and self._quantise.dynamic:
            round_in_parts(model.layers)

    def _stream_of(self, model: JointModel) -> LayerStream:
        if self._stream is None or self._stream[0] is not model:
            self._stream = model, LayerStream(list(model.layers), self.device, SLOTS)
        return self._stream[1]

    @contextmanager
    def _on_device(self, model: nn.Module, keep: bool, apart_from: nn.Module | None = None) -> Iterator[None]:
        """A context in which the model's weights are on the device. What was on the host is there again afterwards
        without being copied back: nothing has changed it."""
        apart = set() if apart_from is None else {(id(table), name) for table, name in weights_of(apart_from)}
        places = [(table, name) for table, name in weights_of(model) if (id(table), name) not in apart]
        there = [(table, name, table[name]) for table, name in places if table[name].device != self.device]
        with torch.inference_mode(False), torch.no_grad():
            for table, name, old in there:
                table[name] = like(old, old.detach().to(self.device))
        try:
            yield
        finally:
            for table, name, old in () if keep else there:
                table[name] = old

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._begin()
        began = time.perf_counter()
        try:
            yield
        finally:
            peak = self._end()
            old = self._phases.get(name, Phase(name, 0.0, 0, 0))
            seconds = old.seconds + time.perf_counter() - began
            self._phases[name] = Phase(name, seconds, max(old.peak_bytes, peak), old.entered + 1)

    def _begin(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            forget_resident_peak()

    def _end(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device)
        return resident_peak()

    def report(self) -> tuple[Phase, ...]:
        """The phases in the order in which they were first entered."""
        return tuple(self._phases.values())


def _numbered(device: torch.device) -> torch.device:
    """The device as its tensors name it: ``cuda`` alone means the present one."""
    return (
        torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device
    )


def forget_resident_peak() -> None:
    """Lets the system count the peak of this process's memory anew, where it can (Linux)."""
    with suppress(OSError):  # a container may forbid it: then the peak is that of the process so far
        Path("/proc/self/clear_refs").write_text("5")


def resident_peak() -> int:
    """The most memory that this process had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
