"""The contract of guidances: which passes a step makes, and how they become one velocity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.numerics.protocols import Guidance, Pass
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.testing.reference import drawn
from ovikit.types import AV, MODALITIES, Modality

CONDITIONINGS = ("prompt", "negative")
_SAME = 1e-9
_SHAPES: dict[Modality, tuple[int, ...]] = {"video": (3, 4, 2, 2), "audio": (2, 10)}


class GuidanceContract(Contract):
    """Subclass it and name the component.

    levels:     noise levels that the checks use
    not_affine: why passes that agree do not make the velocity that they agree on; None: they do
    needs_pair: why a modality by itself cannot be guided, which then has to be told; None: it can
    """

    kind = "guidance"
    levels: ClassVar[tuple[float, ...]] = (1.0, 0.999, 0.8, 0.5, 0.3, 0.1, 1e-3)
    not_affine: ClassVar[str | None] = None
    needs_pair: ClassVar[str | None] = None

    def _velocities(self, passes: tuple[Pass, ...], batch: int = 3) -> dict[str, AV[Tensor]]:
        """A velocity of its own for each pass."""
        return {one.name: _pair(10 + i, batch) for i, one in enumerate(passes)}

    def test_evaluations_are_what_a_level_asks_for_at_most(self) -> None:
        """``evaluations`` covers the passes of every level: time and memory are planned by it."""
        guidance: Guidance = self.build()
        for level in self.levels:
            passes = guidance.passes(AV(level, level))
            assert passes, f"at sigma {level} no pass is made; make at least the one that reads the prompt"
            assert guidance.evaluations >= len(passes), (
                f"at sigma {level} {len(passes)} passes are made and {guidance.evaluations} evaluations declared; "
                "declare the most that any level asks for"
            )

    def test_passes_are_named_and_read_what_there_is(self) -> None:
        """Each pass has a name of its own and reads the prompt or the negative prompt."""
        for level in self.levels:
            passes = self.build().passes(AV(level, level))
            names = [one.name for one in passes]
            assert len(set(names)) == len(names), f"two passes share a name: {names}; velocities are kept by name"
            wrong = [one.conditioning for one in passes if one.conditioning not in CONDITIONINGS]
            assert not wrong, f"a pass reads {wrong[0]!r}; a run offers {' and '.join(CONDITIONINGS)}"

    def test_passes_are_plain_values(self) -> None:
        """The same level asks for the same passes, which can be compared and hashed."""
        guidance: Guidance = self.build()
        for level in self.levels:
            first, again = guidance.passes(AV(level, level)), guidance.passes(AV(level, level))
            assert first == again, f"at sigma {level} a second call asks for other passes; depend on sigma alone"
            assert len({hash(first), hash(again)}) == 1, (
                "passes cannot be hashed alike; put tuples into them, not lists"
            )

    def test_passes_that_agree_make_what_they_agree_on(self) -> None:
        """Guidance moves away from a difference: where there is none, it changes nothing."""
        if self.not_affine is not None:
            assert self.not_affine, "say in not_affine why velocities that agree are changed"
            return
        guidance: Guidance = self.build()
        for level in self.levels:
            one, sigma = _pair(1), AV(level, level)
            found = guidance.combine({run.name: one for run in guidance.passes(sigma)}, _pair(2), sigma)
            off = _apart(found, one)
            assert off < _SAME, (
                f"at sigma {level}, passes that all give one velocity make one {off:.2g} off; the weights of the "
                "passes "
                "have to add up to 1. Where that is not meant, say why in not_affine"
            )

    def test_items_of_a_batch_do_not_meet(self) -> None:
        """An item in a batch is guided as it is alone."""
        guidance: Guidance = self.build()
        for level in self.levels:
            sigma, x = AV(level, level), _pair(2)
            velocities = self._velocities(guidance.passes(sigma))
            whole = guidance.combine(velocities, x, sigma)
            for i in range(3):
                cut = _cut(i)
                alone = guidance.combine({name: v.map(cut) for name, v in velocities.items()}, x.map(cut), sigma)
                off = _apart(alone, whole.map(cut))
                assert off < _SAME, (
                    f"at sigma {level}, item {i} of a batch is guided {off:.2g} off from alone; take norms, products "
                    "and "
                    "standard deviations of each item by itself: over all dimensions but the first"
                )

    def test_velocities_keep_their_shape_and_dtype(self) -> None:
        """What comes out is in the shape and the format of what the passes gave."""
        guidance: Guidance = self.build()
        for dtype in (torch.float32, torch.float64):

            def cast(value: Tensor, to: torch.dtype = dtype) -> Tensor:
                return value.to(to)

            for level in self.levels:
                sigma = AV(level, level)
                given = {name: v.map(cast) for name, v in self._velocities(guidance.passes(sigma)).items()}
                found = guidance.combine(given, _pair(2).map(cast), sigma)
                assert found.modalities == MODALITIES, f"of {MODALITIES} only {found.modalities} come back"
                for modality, value in found.items():
                    wanted = (3, *_SHAPES[modality])
                    assert tuple(value.shape) == wanted, f"the {modality} is {tuple(value.shape)}, not {wanted}"
                    assert value.dtype == dtype, f"{dtype} velocities of the {modality} become {value.dtype}; cast back"
                    assert bool(torch.isfinite(value).all()), f"at sigma {level} the guided {modality} is NaN or Inf"

    def test_velocities_of_zero_stay_finite(self) -> None:
        """Silence and stillness may have a velocity of exactly zero: nothing is divided by its norm."""
        guidance: Guidance = self.build()
        for level in self.levels:
            sigma = AV(level, level)
            still = _pair(1).map(torch.zeros_like)
            found = guidance.combine({run.name: still for run in guidance.passes(sigma)}, _pair(2), sigma)
            bad = [m for m, value in found.items() if not bool(torch.isfinite(value).all())]
            assert not bad, f"velocities of zero make NaN of the {' and '.join(bad)}; keep norms away from zero (clamp)"

    def test_what_it_is_given_stays(self) -> None:
        """``combine`` writes into nothing that it is given, and gives the same twice."""
        guidance: Guidance = self.build()
        for level in self.levels:
            sigma, x = AV(level, level), _pair(2)
            velocities = self._velocities(guidance.passes(sigma))
            kept = {name: v.map(Tensor.clone) for name, v in velocities.items()}
            first = guidance.combine(velocities, x, sigma).map(Tensor.clone)
            moved = [name for name, v in velocities.items() if _apart(v, kept[name]) > 0]
            assert not moved and _apart(x, _pair(2)) == 0, (  # noqa: PT018
                f"combine writes into what it is given ({', '.join(moved) or 'the latents'}); make new tensors"
            )
            assert _apart(first, guidance.combine(velocities, x, sigma)) == 0, (
                "a second call of combine gives another velocity; keep nothing between calls"
            )

    def test_what_an_anchored_pass_says_of_its_anchor_is_not_read(self) -> None:
        """The velocity of a modality whose latents a pass exchanged means nothing."""
        guidance: Guidance = self.build()
        for level in self.levels:
            sigma = AV(level, level)
            passes = guidance.passes(sigma)
            velocities = self._velocities(passes)
            for run in passes:
                said = velocities[run.name].items()
                velocities[run.name] = AV[Tensor].of(
                    {m: torch.full_like(v, torch.nan) if m in run.anchored else v for m, v in said}
                )
            found = guidance.combine(velocities, _pair(2), sigma)
            bad = [m for m, value in found.items() if bool(torch.isnan(value).any())]
            assert not bad, f"the {' and '.join(bad)} is guided by what a pass says of a modality that it anchored"

    def test_a_modality_alone_is_guided_as_in_the_pair(self) -> None:
        """A run of one modality is guided as that modality is in a pair, or refused with the reason."""
        guidance: Guidance = self.build()
        for level in self.levels:
            sigma, x = AV(level, level), _pair(2)
            velocities = self._velocities(guidance.passes(sigma))
            whole = guidance.combine(velocities, x, sigma)
            for modality in MODALITIES:
                lone = _only(modality)
                try:
                    found = guidance.combine({n: lone(v) for n, v in velocities.items()}, lone(x), sigma)
                except (ValueError, UserError) as error:
                    told = str(error)
                    found = None
                if found is None:
                    assert self.needs_pair, (
                        f"the {modality} alone is refused ({told}); say in needs_pair why that is so"
                    )
                    continue
                assert found.modalities == (modality,), f"of the {modality} alone {found.modalities} come back"
                off = _apart(found, lone(whole))
                assert off < _SAME, f"the {modality} alone is guided {off:.2g} off from how it is in the pair"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """Guidance draws nothing."""
        guidance, sigma = self.build(), AV(0.5, 0.5)
        velocities, x = self._velocities(guidance.passes(sigma)), _pair(2)
        with global_generators_unused(f"the guidance '{self.found().name}'"):
            guidance.combine(velocities, x, sigma)


def _pair(seed: int, batch: int = 3) -> AV[Tensor]:
    return AV[Tensor].of({m: drawn(batch, *shape, seed=seed + 100 * i) for i, (m, shape) in enumerate(_SHAPES.items())})


def _cut(i: int) -> Callable[[Tensor], Tensor]:
    return lambda value: value[i : i + 1]


def _only(modality: Modality) -> Callable[[AV[Tensor]], AV[Tensor]]:
    return lambda pair: AV[Tensor].of({modality: pair[modality]})


def _apart(first: AV[Tensor], second: AV[Tensor] | Mapping[Modality, Tensor]) -> float:
    return max(float((first[m] - second[m]).abs().nan_to_num(nan=torch.inf).max()) for m in first.modalities)
