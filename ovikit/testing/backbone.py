"""The contract of backbones: one tower whose blocks come in stages, so that any fusion can interleave them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ovikit.networks.attention import sdpa
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import Backbone, Block
from ovikit.networks.rotary import rotation
from ovikit.networks.stages import context_stage, feed_forward_stage, run_block, self_stage
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.testing.layers import checkpointed, compiled, matching, refuse_other_names
from ovikit.testing.reference import (
    CHANNELS,
    FLOAT64,
    TEXT_WIDTH,
    Inputs,
    ReferencePositions,
    apart,
    assembled,
    drawn,
    gradients,
    inputs,
    stirred,
    velocity,
)
from ovikit.types import AV, MODALITIES, Modality, Perturbation, Stream, Text, TokenGrid

GRIDS = AV(TokenGrid.uniform("video", (4, 4, 4), 0.25), TokenGrid.uniform("audio", (12, 1, 1), 1 / 12))
_SAME = 1e-9


class BackboneContract(Contract):
    """Subclass it and name the component, with options that make it tiny.

    modalities: that it can be a tower of
    keys:       names of the weights of a block, or a JSON file that lists them
    without_gradient: globs of parameters that no gradient reaches, and why
    compiles:   torch.compile takes a block as a whole; False skips that check
    half:       it runs in bfloat16 too; False skips that check
    grids:      of the latents; sizes that its patches divide
    """

    kind = "backbone"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    keys: ClassVar[Sequence[str] | Path | None] = None
    without_gradient: ClassVar[Mapping[str, str]] = {}
    compiles: ClassVar[bool] = True
    half: ClassVar[bool] = True
    grids: ClassVar[AV[TokenGrid]] = GRIDS

    @classmethod
    def tower(cls, modality: Modality, precision: Precision = FLOAT64) -> nn.Module:
        """A tower without weights, built as ``recipe/build.py`` does it."""
        with torch.device("meta"):
            return cls.build(modality=modality, channels=CHANNELS[modality], text_width=TEXT_WIDTH, precision=precision)

    @classmethod
    def model(cls, modality: Modality, precision: Precision = FLOAT64) -> JointModel:
        """A model of this tower alone, with weights as they are before training."""
        tower = cls.tower(modality, precision)
        return assembled(AV.of({modality: tower}), [None] * _told(tower).depth, precision=precision)

    @classmethod
    @cache
    def _kept(cls, modality: Modality) -> JointModel:
        model = cls.model(modality)
        stirred(model)
        return model

    @classmethod
    def stirred(cls, modality: Modality) -> JointModel:
        """A model of its own in which no weight is zero."""
        return copy.deepcopy(cls._kept(modality))

    def _inputs(self, modality: Modality, batch: int = 2) -> Inputs:
        return inputs(self.grids, batch=batch).of((modality,))

    def _out(self, model: JointModel, given: Inputs, cache: bool = False, **options: Any) -> AV[Tensor]:
        return velocity(model, given, self.grids, cache, **options)

    def _stream(self, model: JointModel, modality: Modality) -> Stream:
        """What the first block of a tower is given."""
        given, tower = self._inputs(modality), model.tower(modality)
        grid = tower.grid(self.grids[modality])
        angles = ReferencePositions().angles(grid, tower.width // tower.heads, "self")
        by = rotation(angles, "cpu", torch.float64)
        noise = tower.noise(given.sigma[modality][:, None], (len(grid),))
        context = tower.context(given.text[modality])
        return Stream(tower.embed(given.latents[modality]), noise, context, {"self": by, "fusion": by})

    def test_it_is_a_backbone_of_blocks(self) -> None:
        """It has the parts of ``protocols.Backbone``, and its blocks those of ``protocols.Block``."""
        for modality in self.modalities:
            tower = self.tower(modality)
            lacks = [name for name in _members(Backbone) if not _has(tower, name)]
            assert not lacks, f"the tower lacks {', '.join(lacks)}; see ovikit/networks/protocols.py"
            assert isinstance(tower, nn.Module), "the tower is no nn.Module, so its weights would not be found"
            told = _told(tower)
            assert told.modality == modality, f"asked for a tower of {modality}, its modality is {told.modality}"
            assert told.width % (2 * told.heads) == 0, f"a width of {told.width} gives {told.heads} heads no even width"
            block = told.block(0)
            lacks = [name for name in _members(Block) if not _has(block, name)]
            assert not lacks, f"a block lacks {', '.join(lacks)}; a fusion calls each of these stages"
            assert told.block(0) is not block, "block(index) gives one module twice; make a new one for each layer"

    def test_names_are_pinned(self) -> None:
        """The names of a block's weights stay, so that old files can be read."""
        refuse_other_names(_told(self.tower(self.modalities[0])).block(0), self.keys)

    def test_tokens_lie_on_the_grid(self) -> None:
        """``embed`` makes as many tokens as ``grid`` says, and ``head`` brings them back to the latents' shape."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            tower, latents = model.tower(modality), given.latents[modality]
            grid = tower.grid(self.grids[modality])
            tokens = tower.embed(latents)
            wanted = (2, len(grid), tower.width)
            assert tuple(tokens.shape) == wanted, f"{modality} tokens are {tuple(tokens.shape)}, the grid says {wanted}"
            ends = [pair.edges_s[-1][1] for pair in (grid, self.grids[modality])]
            assert ends[0] == pytest.approx(ends[1]), f"the {modality} tokens' grid lasts {ends[0]} s of {ends[1]} s"
            out = self._out(model, given)[modality]
            assert out.shape == latents.shape, (
                f"the {modality} velocity is {tuple(out.shape)}; the latents {latents.shape}"
            )

    def test_stages_compose_to_the_block(self) -> None:
        """The stages, called one by one, are the block, and give the same when they are called again."""
        for modality in self.modalities:
            model = self.stirred(modality)
            block, stream = model.layers[0].block(modality), self._stream(model, modality)
            kept = stream.tokens.clone()
            mod = block.modulation(stream.noise)
            after = context_stage(block, self_stage(block, stream, mod, sdpa), sdpa)
            found = feed_forward_stage(block, after, mod).tokens
            feed_forward_stage(block, stream, mod)
            whole = run_block(block, stream, sdpa).tokens
            assert torch.equal(stream.tokens, kept), "a stage writes into the tokens it is given; make new tensors"
            assert torch.equal(found, whole), "stages give something else when they are called again; keep no state"

    def test_heads_have_the_towers_shape(self) -> None:
        """Queries, keys and values are (b, n, heads, width / heads), of the text as well."""
        for modality in self.modalities:
            model = self.stirred(modality)
            block, stream, tower = model.layers[0].block(modality), self._stream(model, modality), model.tower(modality)
            wanted = (tower.heads, tower.width // tower.heads)
            parts = {
                "self_heads": block.self_heads(stream.tokens, block.modulation(stream.noise)),
                "context_heads": block.context_heads(stream.tokens, stream.context),
            }
            for name, heads in parts.items():
                shapes = {tuple(part.shape[2:]) for part in heads}
                assert shapes == {wanted}, f"{name} of the {modality} gives heads {shapes}, not {wanted}"

    def test_items_of_a_batch_do_not_meet(self) -> None:
        """An item in a batch comes out as it does alone."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality, batch=3)
            whole = self._out(model, given)
            for i in range(3):
                off = apart(self._out(model, given.item(i)), whole.map(lambda x, i=i: x[i : i + 1]))
                assert off < _SAME, f"{modality} item {i} is {off:.2g} off its value alone; use no norm over the batch"

    def test_tokens_past_the_length_are_not_read(self) -> None:
        """What stands behind an item's length changes nothing before it in a block."""
        for modality in self.modalities:
            model = self.stirred(modality)
            block, stream = model.layers[0].block(modality), self._stream(model, modality)
            total = stream.tokens.shape[1]
            valid = total - 3
            stream = replace(stream, lengths=torch.tensor([valid, total]))
            other = stream.tokens.clone()
            other[0, valid:] += 3
            first, second = (run_block(block, one, sdpa).tokens for one in (stream, stream.with_tokens(other)))
            off = apart(AV(first[0, :valid]), AV(second[0, :valid]))
            assert off < _SAME, (
                f"{modality} tokens hear {off:.2g} of what is past their length; stages work token by token"
            )

    def test_spans_of_one_level_are_one_span(self) -> None:
        """A noise level that is told for two spans of tokens is as if it were told for all of them."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            zero = Inputs(given.latents, given.sigma.map(torch.zeros_like), given.text)
            clean = AV.of({modality: 1})
            try:
                off = apart(self._out(model, zero), self._out(model, zero, clean_steps=clean))
                other = apart(self._out(model, given), self._out(model, given, clean_steps=clean))
            except (RuntimeError, ValueError, IndexError) as error:
                pytest.fail(f"a clip with a clean first step fails ({error}); modulate by noise.spans (by_span)")
            assert off < _SAME, f"two spans of one {modality} level are {off:.2g} off from one span (by_span)"
            assert other > 1e-7, f"the {modality} tower does not see that its first step is clean"

    def test_each_span_has_its_own_level(self) -> None:
        """Tokens of a span are modulated by the level of that span, as if all tokens had it."""
        for modality in self.modalities:
            model = self.stirred(modality)
            block, stream, tower = model.layers[0].block(modality), self._stream(model, modality), model.tower(modality)
            total, cut = stream.tokens.shape[1], 3
            low, high = torch.full((2, 1), 0.1).double(), torch.full((2, 1), 0.8).double()

            def moved(
                levels: Tensor, *spans: int, block: Any = block, tower: Any = tower, x: Any = stream.tokens
            ) -> Tensor:
                return block.feed_forward(x, block.modulation(tower.noise(levels, spans)))

            both = moved(torch.cat((low, high), dim=1), cut, total - cut)
            wanted = torch.cat((moved(low, total)[:, :cut], moved(high, total)[:, cut:]), dim=1)
            off = apart(AV(both), AV(wanted))
            assert off < _SAME, (
                f"{modality} tokens of two levels are {off:.2g} off; modulate each span by its own (by_span)"
            )

    def test_the_noise_level_and_the_text_are_read(self) -> None:
        """Another noise level and another prompt give another velocity."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            plain = self._out(model, given)
            level = Inputs(given.latents, given.sigma.map(lambda s: s / 2), given.text)
            words = Inputs(given.latents, given.sigma, given.text.map(lambda t: replace(t, tokens=t.tokens + 1)))
            for what, other in (("noise level", level), ("text", words)):
                assert apart(plain, self._out(model, other)) > 1e-7, f"the {modality} tower does not read its {what}"

    def test_a_cached_text_is_the_text(self) -> None:
        """Keys and values of the text that are kept for all steps change nothing."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            off = apart(self._out(model, given), self._out(model, given, cache=True))
            assert off < _SAME, (
                f"with cached text the {modality} is {off:.2g} off; context_heads takes KeyValue as it is"
            )

    def test_a_text_does_not_depend_on_its_padding(self) -> None:
        """A prompt makes the same context, as long, beside a short prompt and beside a long one of its batch."""
        for modality in self.modalities:
            tower = self.stirred(modality).tower(modality)
            words = Text(drawn(1, 3, TEXT_WIDTH, seed=5), torch.tensor([3]))
            padded = Text(torch.cat([words.tokens, torch.zeros(1, 2, TEXT_WIDTH).to(words.tokens)], 1), words.lengths)
            alone, beside = tower.context(words), tower.context(padded)
            assert alone.shape == beside.shape, (
                f"three words make {alone.shape[1]} context tokens of the {modality}, padded to five "
                f"{beside.shape[1]}; pad and cut every text to one length, as the texts of guidance's passes differ"
            )
            off = float((alone - beside).detach().abs().max())
            assert off < _SAME, (
                f"padding changes the context of the {modality} by {off:.2g}; a clip would depend on its batch"
            )

    def test_self_attention_can_be_skipped(self) -> None:
        """``skip_self`` gives the values back in place of what is attended, in the named layers alone."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            plain, depth = self._out(model, given), model.tower(modality).depth
            skipped = self._out(model, given, perturbation=Perturbation(skip_self=(0,)))
            beyond = self._out(model, given, perturbation=Perturbation(skip_self=(depth,)))
            assert apart(plain, skipped) > 1e-7, f"skipping the {modality}'s self-attention changes nothing"
            assert apart(plain, beyond) == 0, (
                "skipping the self-attention of a layer that is not there changes something"
            )

    def test_gradient_reaches_every_weight_and_the_input(self) -> None:
        """Nothing that is trained stands still."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            leaf = given.latents.map(lambda x: x.clone().requires_grad_())
            found = gradients(model, self._out(model, given.with_latents(leaf)))
            names = [name for name, _ in model.named_parameters()]
            still = [name for name in names if name not in found or float(found[name].abs().max()) < 1e-12]
            left = [
                name for name in still if name not in matching(still, (f"*.{one}" for one in self.without_gradient))
            ]
            assert not left, f"no gradient reaches {left}; use them, remove them, or name them in without_gradient"
            grad = leaf[modality].grad
            assert grad is not None, f"no gradient reaches the {modality} latents"
            assert float(grad.abs().max()) > 0, f"no gradient reaches the {modality} latents"

    def test_it_runs_on_the_meta_device(self) -> None:
        """Built and run without storage: nothing is computed from weights, nothing waits for the device."""
        for modality in self.modalities:
            held = [name for name, value in self.tower(modality).state_dict().items() if not value.is_meta]
            assert not held, f"{held} have storage when built on the meta device; create them without naming a device"
            model = self.stirred(modality).to("meta")
            try:
                out = self._out(model, self._inputs(modality).to("meta", torch.float64))
            except (RuntimeError, NotImplementedError) as error:
                pytest.fail(
                    f"a forward without storage fails ({error}); read no tensor back to the host (.item(), .tolist(), "
                    "`if tensor`), and create none without device=x.device"
                )
            assert out[modality].is_meta

    def test_weights_come_from_the_generator(self) -> None:
        """Every weight is set by the standard rules or by ``init_weights(generator)``, the same for the same seed."""
        for modality in self.modalities:
            with global_generators_unused(f"the backbone '{self.found().name}'"):
                first, second = self.model(modality).state_dict(), self.model(modality).state_dict()
            unset = [name for name, value in first.items() if not bool(torch.isfinite(value).all())]
            assert not unset, f"no number was put into {unset}; set them in init_weights(generator) of their module"
            moved = [name for name, value in first.items() if not torch.equal(value, second[name])]
            assert not moved, (
                f"{moved} differ between two models of one seed; draw them from the generator that is given"
            )

    def test_unchanged_under_activation_checkpointing(self) -> None:
        """A layer may be run once more for its gradient, and gives the same."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            plain = gradients(model, self._out(model, given))
            with checkpointed(model):
                again = gradients(model, self._out(model, given))
            wrong = [n for n, value in plain.items() if not torch.allclose(value, again[n], rtol=1e-9, atol=1e-9)]
            assert not wrong, f"under activation checkpointing the gradients of {wrong[:4]} differ; keep no state"

    @pytest.mark.slow
    def test_unchanged_under_the_compiler(self) -> None:
        """torch.compile takes a layer as a whole, and gives the same."""
        if not self.compiles:
            pytest.skip("compiles is False")
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            plain = self._out(model, given)
            with compiled(model):
                try:
                    off = apart(plain, self._out(model, given))
                except torch._dynamo.exc.TorchDynamoException as error:
                    pytest.fail(f"torch.compile cannot take a layer as a whole; no branch on values.\n{error}")
            assert off < _SAME, f"compiled, the {modality} tower is {off:.2g} off"

    def test_it_runs_in_half_precision(self) -> None:
        """In bfloat16, under both policies, it is what it is in float64, roughly."""
        if not self.half:
            pytest.skip("half is False")
        for modality in self.modalities:
            tower = self.model(modality)
            stirred(tower, seed=1)
            exact = self._out(tower, self._inputs(modality))
            for policy in ("clean", "official"):
                latents = torch.bfloat16 if policy == "official" else torch.float32
                model = self.model(modality, Precision(torch.bfloat16, policy))
                model.load_state_dict({name: value.bfloat16() for name, value in tower.state_dict().items()})
                try:
                    found = self._out(model, self._inputs(modality).to("cpu", latents, words=torch.bfloat16))
                except RuntimeError as error:
                    pytest.fail(
                        f"bfloat16 with the {policy} policy fails ({error}); pass what the matrix products read "
                        "through "
                        "precision.narrow, and norms through precision.layer_norm and rms_norm"
                    )
                off = apart(exact, found) / float(exact[modality].detach().abs().max())
                assert off < 0.2, f"bfloat16 with the {policy} policy is {off:.0%} off in the {modality}"

    def test_a_block_does_not_depend_on_chance(self) -> None:
        """The same call gives the same again."""
        for modality in self.modalities:
            model, given = self.stirred(modality), self._inputs(modality)
            first = self._out(model, given)
            self._out(model, given, perturbation=Perturbation(skip_self=(0,)))
            assert apart(first, self._out(model, given)) == 0, (
                f"a second call of the {modality} tower gives another value"
            )
            moved = AV.of({modality: given.latents[modality] + drawn(1, seed=4)})
            assert apart(first, self._out(model, given.with_latents(moved))) > 0, f"the {modality} latents are not read"


def _told(tower: nn.Module) -> Backbone:
    return tower  # type: ignore[return-value]  # nn.Module is all that its type says


def _members(protocol: type) -> list[str]:
    return sorted(name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_"))


def _has(thing: object, name: str) -> bool:
    try:
        getattr(thing, name)
    except AttributeError:
        return False
    return True
