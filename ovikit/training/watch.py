"""What the losses of the last steps were: their means for the log, and whether one of them is not a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.types import AV, MODALITIES, Modality


class NonFiniteError(UserError):
    """The loss or the gradient of a step is NaN or infinite.

    step: counted from 1, as in metrics.csv
    clips: names of the clips of its batch
    """

    def __init__(self, step: int, what: str, clips: Sequence[str], hint: str | None = None) -> None:
        self.step, self.clips, self.quantity = step, tuple(clips), what
        super().__init__(f"{what} is not finite at step {step}; the batch was {', '.join(clips)}", None, hint)

    def with_hint(self, hint: str) -> NonFiniteError:
        return NonFiniteError(self.step, self.quantity, self.clips, hint)


class LossWatch:
    """Losses since the last row of the log, kept on the device until somebody asks.

    alone: whether this process computes the steps alone; what others share with it is looked at where all of them look
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.alone = True
        self._sums: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self._unchecked: list[tuple[int, str, Tensor, Sequence[int]]] = []

    def record(self, step: int, losses: Mapping[str, Tensor], batch: Sequence[int], absent: Sequence[str] = ()) -> None:
        """Takes the scalar losses of step ``step`` and the indices of its clips. absent: names of losses that the step
        did not have, because the modality was given in all of its clips: they do not count in the mean."""
        for name, loss in losses.items():
            if name in absent:
                continue
            value = loss.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._steps[name] = self._steps.get(name, 0) + 1
        self.expect_finite(step, "the loss", sum(loss.detach() for loss in losses.values()), batch, self.alone)

    def expect_finite(
        self, step: int, what: str, value: Tensor | int, batch: Sequence[int], at_once: bool = True
    ) -> None:
        """Remembers a scalar that must be finite: looked at now on the CPU, where that costs nothing, else at the
        next ``check``, so that no step waits for the device. at_once: False: at the next check in any case."""
        assert isinstance(value, Tensor)  # a step has at least one loss
        self._unchecked.append((step, what, value.detach(), batch))
        if value.device.type == "cpu" and at_once:
            self.check()

    def check(self) -> None:
        """NonFiniteError naming the first step since the last check that went wrong, if one did."""
        pending, self._unchecked = self._unchecked, []
        if not pending:
            return
        finite = torch.stack([value for _, _, value, _ in pending]).isfinite().tolist()
        for good, (step, what, _, batch) in zip(finite, pending, strict=True):
            if not good:
                raise NonFiniteError(step, what, [self._names[index] for index in batch])

    def take_means(self, add_up: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """Mean of each loss since the last call, which starts anew, over the micro-batches that had it.

        add_up: the sum of a tensor over all processes
        """
        self.check()
        state = self.state_dict(add_up)
        self._sums, self._steps = {}, {}
        return {name: state["sums"][name] / steps for name, steps in state["steps"].items()}

    def state_dict(self, add_up: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, dict[str, Any]]:
        """The sums and counts of all processes."""
        zero = torch.zeros(())
        table = torch.tensor(
            [[float(self._sums.get(name, zero)), float(self._steps.get(name, 0))] for name in NAMES],
            dtype=torch.float64,
        )
        found = [(name, *row) for name, row in zip(NAMES, add_up(table).tolist(), strict=True) if row[1] > 0]
        return {"steps": {name: round(n) for name, _, n in found}, "sums": {name: value for name, value, _ in found}}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        sums, steps = state["sums"], state["steps"]
        assert isinstance(sums, Mapping)
        assert isinstance(steps, Mapping)
        self._sums = {name: torch.tensor(value, dtype=torch.float32) for name, value in sums.items()}
        self._steps = dict(steps)


def loss_name(modality: Modality) -> str:
    """What the log calls the loss of a modality."""
    return f"loss_{modality}"


NAMES = ("loss", *map(loss_name, MODALITIES))


def named_losses(total: Tensor, losses: AV[Tensor]) -> dict[str, Tensor]:
    """The total and each modality's loss under the names that the log uses."""
    return {"loss": total, **{loss_name(modality): loss for modality, loss in losses.items()}}
