"""The contract of fusions: two towers that meet layer by layer, and only as declared."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from ovikit.networks.attention import sdpa
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precision
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.testing.layers import checkpointed, compiled, matching, refuse_other_names
from ovikit.testing.reference import (
    FLOAT64,
    Inputs,
    apart,
    assembled,
    drawn,
    gradients,
    inputs,
    stirred,
    towers,
    velocity,
)
from ovikit.types import AV, MODALITIES, Modality, Perturbation

CUT = Perturbation(cut_fusion=True)
_SAME = 1e-9
_FELT = 1e-7
_OTHER: dict[Modality, Modality] = {"video": "audio", "audio": "video"}


class FusionContract(Contract):
    """Subclass it, name the component, and say what is particular about it.

    reads:    the streams that depend on the other one; () where the towers never meet
    neutral:  globs of parameter names; with those zero, the towers are as if alone. (): they always are. None: no
              weights do that, and ``neutral_because`` says why
    keys:     names of the weights of the first layer that has a fusion, or a JSON file that lists them
    towers_may_differ: towers of every width and number of heads are taken, see ``other_shapes``
    without_gradient:  globs of parameters that no gradient reaches, and why
    compiles: torch.compile takes a layer as a whole; False skips that check
    half:     it runs in bfloat16 too, as large models are; False skips that check
    width, heads, depth: of the towers that the checks use
    """

    kind = "fusion"
    reads: ClassVar[tuple[Modality, ...]] = MODALITIES
    neutral: ClassVar[tuple[str, ...] | None] = None
    neutral_because: ClassVar[str] = ""
    keys: ClassVar[Sequence[str] | Path | None] = None
    towers_may_differ: ClassVar[bool] = False
    other_shapes: ClassVar[tuple[tuple[AV[int], AV[int]], ...]] = (
        (AV(24, 48), AV(2, 4)),  # width, heads: more heads of one width
        (AV(24, 48), AV(2, 3)),  # heads of another width
    )
    without_gradient: ClassVar[Mapping[str, str]] = {}
    compiles: ClassVar[bool] = True
    half: ClassVar[bool] = True
    width: ClassVar[AV[int]] = AV(24, 24)
    heads: ClassVar[AV[int]] = AV(2, 2)
    depth: ClassVar[int] = 2

    @classmethod
    def context(cls) -> dict[str, Any]:
        return {"depth": cls.depth, "width": cls.width, "heads": cls.heads, "attend": sdpa, "precision": FLOAT64}

    @classmethod
    def layers(cls, **context: Any) -> Sequence[nn.Module | None]:
        """The fusion's layers without weights, built as ``recipe/build.py`` does it."""
        with torch.device("meta"):
            return cls.build(**context)

    @classmethod
    def model(cls, precision: Precision = FLOAT64, *, video_depth: int | None = None, **context: Any) -> JointModel:
        """Two reference towers with this fusion, with weights as they are before training."""
        told = {**cls.context(), "precision": precision, **context}
        deep = told["depth"] if video_depth is None else video_depth
        with torch.device("meta"):
            parts = towers(told["width"], told["heads"], AV(deep, told["depth"]), precision)
        fusion = [*cls.layers(**told), *[None] * (deep - told["depth"])]
        return assembled(parts, fusion, precision=precision)

    @classmethod
    @cache
    def _kept(cls) -> JointModel:
        model = cls.model()
        stirred(model)
        return model

    @classmethod
    def stirred(cls) -> JointModel:
        """A model of its own in which no weight is zero."""
        return copy.deepcopy(cls._kept())

    def test_layers_are_as_many_as_both_towers_have(self) -> None:
        """It builds ``depth`` layers: a module each, or None where the towers do not meet."""
        for depth in (1, 2, 5):
            built = self.layers(depth=depth)
            assert len(built) == depth, f"asked for {depth} layers, it built {len(built)}; build one, or None, for each"
            wrong = [type(one).__name__ for one in built if one is not None and not isinstance(one, nn.Module)]
            assert not wrong, f"a layer is a {wrong[0]}; make each an nn.Module, so that its weights are found"

    def test_names_are_pinned(self) -> None:
        """The names of the weights stay, so that old files can be read."""
        refuse_other_names(next((one for one in self.layers() if one is not None), None), self.keys)

    def test_it_runs_on_the_meta_device(self) -> None:
        """Built and run without storage: nothing is computed from weights, nothing waits for the device."""
        for one in self.layers():
            held = [] if one is None else [name for name, value in one.state_dict().items() if not value.is_meta]
            assert not held, f"{held} have storage when built on the meta device; create them without naming a device"
        model = self.stirred().to("meta")
        try:
            out = velocity(model, inputs().to("meta", torch.float64))
        except (RuntimeError, NotImplementedError) as error:
            pytest.fail(
                f"a forward without storage fails ({error}); read no tensor back to the host (.item(), .tolist(), "
                "`if tensor`), create none without device=x.device, and keep constants in Stream.layout (LaysOut)"
            )
        assert all(value.is_meta for value in out.values())

    def test_weights_come_from_the_generator(self) -> None:
        """Every weight is set by the standard rules or by ``init_weights(generator)``, the same for the same seed."""
        first, second = self.model().state_dict(), self.model().state_dict()
        unset = [name for name, value in first.items() if not bool(torch.isfinite(value).all())]
        assert not unset, f"no number was put into {unset}; set them in init_weights(generator) of their module"
        moved = [name for name, value in first.items() if not torch.equal(value, second[name])]
        assert not moved, f"{moved} differ between two models of one seed; draw them from the generator that is given"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """Building, drawing weights and running leave the global random generators where they are."""
        with global_generators_unused(f"the fusion '{self.found().name}'"):
            velocity(self.model(), inputs())

    def test_items_of_a_batch_do_not_meet(self) -> None:
        """An item in a batch comes out as it does alone."""
        model, given = self.stirred(), inputs(batch=3)
        whole = velocity(model, given)
        for i in range(3):
            off = apart(velocity(model, given.item(i)), whole.map(lambda x, i=i: x[i : i + 1]))
            assert off < _SAME, f"item {i} is {off:.2g} off its value alone; take no mean or norm over the batch"

    def test_tokens_past_the_length_are_not_read(self) -> None:
        """What stands behind an item's length changes nothing before it, in either stream."""
        model, given = self.stirred(), inputs()
        lengths = AV(torch.tensor([8, 16]), torch.tensor([5, 10]))  # the first item: half of its second
        plain = velocity(model, given, lengths=lengths)
        for changed in MODALITIES:
            other = given.latents[changed].clone()
            other[0].flatten(1)[:, int(lengths[changed][0]) :] += drawn(1, seed=5) + 3
            latents = AV.of({m: other if m == changed else x for m, x in given.latents.items()})
            found = velocity(model, given.with_latents(latents), lengths=lengths)
            for read in MODALITIES:
                valid = int(lengths[read][0])
                pair = (AV(x[read][0].flatten(1)[:, :valid]) for x in (plain, found))
                off = apart(*pair)
                assert off < _SAME, (
                    f"{read} hears {off:.2g} of {changed} tokens past their length; give attend the lengths of the "
                    "stream whose keys it reads (other.lengths), and mask means and windows by them"
                )

    def test_it_reads_the_declared_streams(self) -> None:
        """Each stream of ``reads`` depends on the other one, in value and in gradient; no other does."""
        model, given = self.stirred(), inputs()
        self._check_reads(model, given)

    def _check_reads(self, model: JointModel, given: Inputs) -> None:
        plain = velocity(model, given)
        for reader in MODALITIES:
            other = _OTHER[reader]
            moved = AV.of({m: x + drawn(*x.shape, seed=9) if m == other else x for m, x in given.latents.items()})
            felt = apart(AV(plain[reader]), AV(velocity(model, given.with_latents(moved))[reader]))
            leaf = given.latents.map(lambda x: x.clone().requires_grad_())
            out = velocity(model, given.with_latents(leaf))[reader].square().sum()
            (slope,) = torch.autograd.grad(out, [leaf[other]], allow_unused=True)
            pull = 0.0 if slope is None else float(slope.abs().max())
            if reader in self.reads:
                assert felt > _FELT, f"{reader} does not change with {other} ({felt:.2g}); let it read, or change reads"
                assert pull > _FELT, (
                    f"no gradient of {reader} reaches {other} ({pull:.2g}); detach nothing, or change reads"
                )
            else:
                told = f"{reader} depends on {other} (value {felt:.2g}, gradient {pull:.2g}), which reads does not say"
                assert (felt, pull) == (0, 0), f"{told}; name {reader} in reads, or cut this direction"

    def test_gradient_reaches_every_weight_and_both_inputs(self) -> None:
        """Nothing that is trained stands still."""
        model, given = self.stirred(), inputs()
        leaf = given.latents.map(lambda x: x.clone().requires_grad_())
        found = gradients(model, velocity(model, given.with_latents(leaf)))
        names = [name for name, _ in model.named_parameters() if ".fusion." in name]
        still = [name for name in names if name not in found or float(found[name].abs().max()) < 1e-12]
        excused = matching(still, (f"*.fusion.{one}" for one in self.without_gradient))
        left = [name for name in still if name not in excused]
        assert not left, (
            f"no gradient reaches {left}; use them, or remove them. (The bias of a key that is neither normalised nor "
            "rotated moves no softmax.) Where that is meant, name them in without_gradient, with the reason"
        )
        dead = [m for m, x in leaf.items() if x.grad is None or float(x.grad.abs().max()) == 0]
        assert not dead, f"no gradient reaches the {' and the '.join(dead)}"

    def test_neutral_weights_leave_the_towers_alone(self) -> None:
        """With the weights of ``neutral`` at zero the towers are as if the fusion were not there."""
        if self.neutral is None:
            assert self.neutral_because, (
                "it is not said how this fusion becomes neutral; set neutral to globs of the weights whose zero makes "
                "it "
                "so, such as ('*.gate',), or, where there are none, neutral_because to the reason"
            )
            pytest.skip(self.neutral_because)
        model, given = self.stirred(), inputs()
        if self.neutral:
            names = [name for name, _ in model.named_parameters() if ".fusion." in name]
            zeroed = {one: matching(names, (f"*.fusion.{one}",)) for one in self.neutral}
            lost = [one for one, found in zeroed.items() if not found]
            assert not lost, (
                f"no weight is called {lost}; the fusion's are {[one.partition('.fusion.')[2] for one in names]}"
            )
            with torch.no_grad():
                for name in {name for found in zeroed.values() for name in found}:
                    model.get_parameter(name).zero_()
        off = apart(velocity(model, given), velocity(model, given, perturbation=CUT))
        assert off < _SAME, (
            f"with {', '.join(self.neutral) or 'whatever weights'} at zero the towers are {off:.2g} off from alone; "
            "run "
            "the blocks' stages as run_block does, and let everything that is added pass through those weights"
        )

    def test_cut_fusion_is_the_towers_alone(self) -> None:
        """A cut fusion leaves no trace: each tower gives what it gives as a model of its own."""
        model, given = self.stirred(), inputs()
        velocity(model, given)
        cut = velocity(model, given, perturbation=CUT)
        for modality in MODALITIES:
            alone = velocity(model, given.of((modality,)))
            off = apart(alone, AV.of({modality: cut[modality]}))
            assert off == 0, f"the {modality} tower, cut off from the other, is {off:.2g} off from itself alone"

    def test_a_clean_start_is_a_level_of_zero(self) -> None:
        """Clips with a given first step have two noise levels: two spans of tokens."""
        model, given, clean = self.stirred(), inputs(), AV(1)
        zero = Inputs(given.latents, AV(torch.zeros_like(given.sigma["video"]), given.sigma["audio"]), given.text)
        try:
            off = apart(velocity(model, zero), velocity(model, zero, clean_steps=clean))
            told = velocity(model, given, clean_steps=clean)
        except (RuntimeError, ValueError, IndexError) as error:
            pytest.fail(f"a clip with a clean first step fails ({error}); modulate by stream.noise.spans (by_span)")
        assert off < _SAME, (
            f"two spans of one level are {off:.2g} off from one span; use each span's own level (by_span)"
        )
        assert apart(told, told) == 0, "a clip with a clean first step comes out as NaN"
        for i in range(2):
            off = apart(velocity(model, given.item(i), clean_steps=clean), told.map(lambda x, i=i: x[i : i + 1]))
            assert off < _SAME, f"item {i} of clips with clean first steps is {off:.2g} off its value alone"

    def test_calls_leave_nothing_behind(self) -> None:
        """The same call gives the same again, whatever ran in between."""
        model, given = self.stirred(), inputs()
        first = velocity(model, given)
        velocity(model, given.item(0), clean_steps=AV(1))
        off = apart(first, velocity(model, given))
        assert off == 0, f"a second call is {off:.2g} off the first; keep nothing of a call in the module"

    def test_unchanged_under_activation_checkpointing(self) -> None:
        """A layer may be run once more for its gradient, and gives the same."""
        model, given = self.stirred(), inputs()
        plain = gradients(model, velocity(model, given))
        with checkpointed(model):
            again = gradients(model, velocity(model, given))
        wrong = [name for name, value in plain.items() if not torch.allclose(value, again[name], rtol=1e-9, atol=1e-9)]
        assert not wrong, (
            f"under activation checkpointing the gradients of {wrong[:4]} differ; keep no state between calls"
        )

    @pytest.mark.slow
    def test_unchanged_under_the_compiler(self) -> None:
        """torch.compile takes a layer as a whole, and gives the same."""
        if not self.compiles:
            pytest.skip("compiles is False")
        model, given = self.stirred(), inputs()
        plain = velocity(model, given)
        with compiled(model):
            try:
                off = apart(plain, velocity(model, given))
            except torch._dynamo.exc.TorchDynamoException as error:
                pytest.fail(f"torch.compile cannot take a layer as a whole; no branch on values in a forward.\n{error}")
        assert off < _SAME, f"compiled, the model is {off:.2g} off"

    def test_it_runs_in_half_precision(self) -> None:
        """In bfloat16, under both policies, it is what it is in float64, roughly."""
        if not self.half:
            pytest.skip("half is False")
        exact = velocity(self.model(), inputs())
        for policy in ("clean", "official"):
            latents = torch.bfloat16 if policy == "official" else torch.float32
            given = inputs().to("cpu", latents, words=torch.bfloat16)
            try:
                found = velocity(self.model(Precision(torch.bfloat16, policy)), given)
            except RuntimeError as error:
                pytest.fail(
                    f"bfloat16 with the {policy} policy fails ({error}); pass what the matrix products read through "
                    "precision.narrow, and norms through precision.layer_norm and rms_norm"
                )
            for modality, value in exact.items():
                off = apart(AV(value), AV(found[modality])) / float(value.detach().abs().max())
                assert off < 0.2, f"bfloat16 with the {policy} policy is {off:.0%} off in the {modality}"

    def test_towers_of_other_shapes(self) -> None:
        """Towers of other widths, heads and depths work as declared, or are refused with a reason when building."""
        for width, heads in self.other_shapes:
            told = f"towers {width['video']} and {width['audio']} wide with {heads['video']} and {heads['audio']} heads"
            shape: dict[str, Any] = {"width": width, "heads": heads}
            refusal = self._refusal(**shape)
            if refusal is not None:
                assert not self.towers_may_differ, f"{told} are refused ({refusal}), although towers_may_differ"
                assert "width" in refusal or "head" in refusal, (
                    f"{told} are refused with '{refusal}', which speaks of neither widths nor heads; say what "
                    "has to be equal"
                )
                continue
            model = self.model(video_depth=self.depth + 1, **shape)
            stirred(model)
            try:
                self._check_reads(model, inputs())
            except RuntimeError as error:
                pytest.fail(
                    f"{told} can be built but not run ({error}); raise ValueError when building, or handle them"
                )

    def _refusal(self, **shape: Any) -> str | None:
        """Why towers of a shape are refused; None where they are taken."""
        try:
            self.layers(**shape)
        except ValueError as error:
            return str(error)
        except (TypeError, RuntimeError, IndexError, ArithmeticError, KeyError) as error:
            pytest.fail(
                f"towers of {shape} fail with {type(error).__name__}: {error}; raise ValueError with the reason"
            )
        return None
