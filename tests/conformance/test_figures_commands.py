"""``ovikit figures`` with Ovi's own parts: the paper's Figure 2 as it was recorded, and attention of a tiny model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ovikit.checkpoints.load import write_tensors
from ovikit.cli import main
from ovikit.errors import UserError
from ovikit.figures.affinity import rope_affinity
from ovikit.figures.attention import Attention, find_weighted, record_attention
from ovikit.generate.batch import ClipMaker, SizedCodecs
from ovikit.generate.jobs import Job, Shape
from ovikit.generate.media import read_clip
from ovikit.generate.prompts import given_prompts
from ovikit.generate.source import Source, build_parts
from ovikit.generate.texts import TextCache
from ovikit.networks.joint import WHOLE, JointModel
from ovikit.networks.protocols import Attend
from ovikit.networks.rotary import rotate
from ovikit.networks.stages import self_stage
from ovikit.numerics.guidance import PROMPT
from ovikit.numerics.protocols import Network, Pass
from ovikit.recipe.build import (
    Spread,
    build_codecs,
    build_conditioner,
    build_model,
    build_sampling,
    clip_spec,
    fill_model,
)
from ovikit.recipe.load import load_recipe
from ovikit.runtime.passes import BoundNetwork
from ovikit.training import run as runs
from ovikit.training.checkpoints import checkpoint_weights
from ovikit.types import AV, TokenGrid

GOLDEN = Path("tests/parity/golden/rope_affinity.safetensors")
REFERENCE, TINY = Path("recipes/reference/ovi-720x720-5s.yaml"), Path("recipes/tiny/ovi.yaml")
SMALL = [
    "clip.duration_s=0.5", "model.codecs.video.block_px=16", "model.codecs.video.channels=24", "sampling.steps=4",
    "sampling.guidance.video=3.0", "sampling.guidance.audio=2.0",
    *(f"model.{m}.{key}" for m in ("video", "audio") for key in ("width=24", "heads=2", "feed_forward_width=32")),
]  # fmt: skip
ITEM = given_prompts(["A red ball flashes twice"])[0]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["figures", *arguments])
    return int(end.value.code or 0)


# ---- rope-affinity


def test_figure_2_of_the_reference_recipe_is_the_recorded_one() -> None:
    found, golden = rope_affinity(load_recipe(REFERENCE), "native"), load_file(GOLDEN)
    assert torch.allclose(found.before.values, golden["affinity.unscaled"], rtol=0, atol=1e-12)
    assert torch.allclose(found.after.values, golden["affinity.scaled"], rtol=0, atol=1e-12)
    assert found.after.distance_s < 0.06 < 1.0 < found.before.distance_s


def test_the_command_writes_the_recorded_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture, data = tmp_path / "a.png", tmp_path / "a.safetensors"
    assert run("rope-affinity", str(REFERENCE), "--out", str(picture), "--data", str(data)) == 0
    golden, tensors = load_file(GOLDEN), load_file(data)
    assert torch.allclose(tensors["affinity.after"], golden["affinity.scaled"], rtol=0, atol=1e-12)
    assert Image.open(picture).size[0] > 1000
    out = capsys.readouterr().out
    assert "before (native, theta 10000): the ridge lies 1.93" in out
    assert "after (scaled-audio, ratio 0.19676, theta 10000): the ridge lies 0.04" in out


@pytest.mark.parametrize(
    ("change", "aligned"),
    [("scaled-video", True), ("seconds", True), ("interleaved", True), ("native", False)],
)
def test_every_scheme_has_a_figure(change: str, aligned: bool) -> None:
    found = rope_affinity(load_recipe(TINY, [f"model.positions.type={change}"]), "scaled-audio")
    assert found.after.values.shape == (62, 12)
    assert (found.after.distance_s < 0.25) == aligned
    assert found.before.options["theta"] == found.after.options["theta"]


@pytest.mark.parametrize(
    ("overrides", "before", "message"),
    [
        ([], "nativ", r"--before: there is no positions named 'nativ'; .* Did you mean 'native'\?"),
        ([], "none", "positions 'none': turns nothing with time in the fusion"),
        (["model.positions.type=none"], "native", "positions 'none': turns nothing with time"),
        (["model.rotated.fusion=false"], "native", "model.rotated.fusion: this recipe's fusion turns by no positions"),
        (["model.audio=null", "model.fusion.type=none", "training.stage=video"], "native", "has one tower"),
    ],
)
def test_what_has_no_figure_is_told(overrides: list[str], before: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rope_affinity(load_recipe(TINY, overrides), before)


@pytest.mark.parametrize("wrong", [("--out", "a.jpg"), ("--data", "a.json")])
def test_other_file_formats_are_refused(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rope-affinity", str(TINY), *wrong) == 2
    assert f"error: {wrong[0]}: " in capsys.readouterr().err


# ---- attention


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the small model, all different from what training starts with."""
    recipe = load_recipe(TINY, SMALL)
    model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe))
    generator = torch.Generator().manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    drawn = {
        name: value + torch.randn(value.shape, generator=generator) * 0.1 for name, value in model.state_dict().items()
    }
    write_tensors(path, drawn, {})
    return path


def source(weights: Path, *more: str) -> Source:
    return find_weighted(TINY, [*SMALL, *more], None, weights)


class Spy:
    """An ``attend`` that keeps the queries and keys of every call."""

    def __init__(self, attend: Attend) -> None:
        self.attend, self.calls = attend, list[tuple[Tensor, Tensor]]()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.calls.append((query, key))
        return self.attend(query, key, value, lengths)


class Plain:
    """The clip of a source without a recorder, and every attention of its prompt passes, step by step."""

    def __init__(self, source: Source) -> None:
        recipe, parts = source.recipe, build_parts(source)
        self.spies: list[Spy] = []
        self.sampling, self.steps = build_sampling(recipe), list[list[tuple[Tensor, Tensor]]]()
        model = build_model(recipe, parts.codecs, parts.conditioner, "meta", Spread(WHOLE, self._spy))
        fill_model(model, recipe, weights=source.weights)
        self.grids = AV.of({m: model.tower(m).grid(codec.grid()) for m, codec in parts.codecs.items()})
        codecs = SizedCodecs(parts.codecs, clip_spec(recipe))
        texts = TextCache().encode(parts.conditioner, [ITEM.prompt, ""])
        job = Job(ITEM.id, ITEM.id, ITEM.prompt, AV(ITEM.prompt, ITEM.prompt), recipe.sampling.seed, Shape((64, 64)))
        maker = ClipMaker(model, codecs, texts, self.sampling, torch.float32, drive=self._drive)
        latents = maker.latents([job], {})
        self.samples = AV.of({m: codecs.decoded(m, job, value) for m, value in latents.items()})

    def _spy(self, attend: Attend) -> Attend:
        self.spies.append(Spy(attend))
        return self.spies[-1]

    def _drive(self, bound: BoundNetwork) -> Network:
        def network(x: AV[Tensor], told: AV[float], passes: tuple[Pass, ...]) -> Any:
            (spy,) = self.spies
            spy.calls.clear()
            bound.evaluate(x, told, Pass(PROMPT, PROMPT))
            self.steps.append(list(spy.calls))
            return bound(x, told, passes)

        return network

    def maps(self, step: int) -> list[Tensor]:
        """By layer, the attention of audio tokens over video tokens in the fusion, from the softmax's own formula."""
        audio, video = len(self.grids["audio"]), len(self.grids["video"])
        calls = [(q, k) for q, k in self.steps[step - 1] if (q.shape[1], k.shape[1]) == (audio, video)]
        scores = [torch.einsum("bnhd,bmhd->hnm", q.double(), k.double()) / math.sqrt(q.shape[-1]) for q, k in calls]
        return [one.softmax(-1).mean(0) for one in scores]


@pytest.fixture(scope="module")
def plain(weights: Path) -> Plain:
    return Plain(source(weights))


@pytest.fixture(scope="module")
def recorded(weights: Path) -> Attention:
    return record_attention(source(weights), ITEM)[0]


def test_the_clip_is_the_one_that_is_made_without_a_recorder(plain: Plain, recorded: Attention) -> None:
    assert torch.equal(recorded.clip.video, plain.samples["video"])
    assert torch.equal(recorded.clip.audio, plain.samples["audio"])


def test_rows_sum_to_one_and_are_those_of_the_middle_step(plain: Plain, recorded: Attention) -> None:
    layers = plain.maps(2)
    assert (recorded.step, recorded.steps, recorded.layers) == (2, 4, (0, 1, 2))
    assert recorded.maps.shape == (15, 3 * 16)
    assert torch.allclose(recorded.maps.sum(1), torch.ones(15), atol=1e-5)
    assert torch.allclose(recorded.maps.double(), torch.stack(layers).mean(0), atol=1e-6)
    assert recorded.over_frames().shape == (15, 3, 4, 4)


@pytest.mark.parametrize(("step", "layers"), [(1, [0]), (4, [2, 1]), (3, None)])
def test_steps_and_layers_are_those_asked_for(weights: Path, plain: Plain, step: int, layers: list[int] | None) -> None:
    found, chosen = record_attention(source(weights), ITEM, step=step, layers=layers, choose=lambda grid: [3])
    kept = [plain.maps(step)[i] for i in layers or (0, 1, 2)]
    assert chosen == [3]
    assert found.layers == tuple(sorted(layers or (0, 1, 2)))
    assert torch.allclose(found.maps.double(), torch.stack(kept).mean(0), atol=1e-6)


@pytest.mark.parametrize("solver", ["heun", "unipc"])
@pytest.mark.parametrize("guidance", ["batched", "in-turn"])
def test_it_is_recorded_once_whatever_the_solver_and_the_passes(weights: Path, solver: str, guidance: str) -> None:
    more = [f"sampling.solver.type={solver}", f"runtime.guidance={guidance}"]
    found = record_attention(source(weights, *more), ITEM, step=1)[0]
    first = record_attention(source(weights), ITEM, step=1)[0]
    assert torch.allclose(found.maps, first.maps, atol=1e-6)  # the first evaluation is at the noise itself


def test_by_hand_from_the_blocks(weights: Path) -> None:
    """Layer 0: the audio's query over the text, turned, meets the fusion's key of the video after its self stage."""
    kept: dict[str, Any] = {}
    made = source(weights)
    parts = build_parts(made)
    model = build_model(made.recipe, parts.codecs, parts.conditioner, "meta")
    fill_model(model, made.recipe, weights=weights)

    def look(layer: Any, arguments: Any) -> None:
        if not kept:
            kept.update(streams=arguments[0])

    model.layers[0].register_forward_pre_hook(look)
    sampling = build_sampling(made.recipe)
    texts = TextCache().encode(parts.conditioner, [ITEM.prompt, ""])
    codecs = SizedCodecs(parts.codecs, clip_spec(made.recipe))
    job = Job(ITEM.id, ITEM.id, ITEM.prompt, AV(ITEM.prompt, ITEM.prompt), made.recipe.sampling.seed, Shape((64, 64)))
    ClipMaker(model, codecs, texts, sampling, torch.float32).latents([job], {})
    with torch.no_grad():
        expected = _layer_by_hand(model, kept["streams"])
    found = record_attention(made, ITEM, step=1, layers=[0])[0]
    assert torch.allclose(found.maps, expected, atol=1e-6)


def _layer_by_hand(model: JointModel, streams: AV[Any]) -> Tensor:
    layer = model.layers[0]
    one = streams.map(lambda stream: stream.part(0, 1))
    after = {}
    for m in ("video", "audio"):
        block = layer.block(m)
        after[m] = self_stage(block, one[m], block.modulation(one[m].noise), layer.attend)
    query = layer.block("audio").context_heads(after["audio"].tokens, after["audio"].context).query
    key, _ = layer.fusion.reads["audio"](after["video"].tokens)
    query, key = rotate(query, one["audio"].rotations["fusion"]), rotate(key, one["video"].rotations["fusion"])
    scores = torch.einsum("bnhd,bmhd->bhnm", query, key) / math.sqrt(query.shape[-1])
    return scores.softmax(-1)[0].mean(0)


def test_sound_and_picture_of_as_many_tokens_are_refused(weights: Path) -> None:
    """48 video tokens of 0.5 s: as many words would make the calls over the text look the same."""
    longer = [f"model.{m}.text_length=48" for m in ("video", "audio")]
    with pytest.raises(UserError, match="48 tokens of the picture and as many of the sound or the text"):
        record_attention(source(weights, *longer), ITEM)


def test_the_command_writes_both_files(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    changes = [part for one in SMALL for part in ("-o", one)]
    given = [str(TINY), "--checkpoint", str(weights), "--prompt", ITEM.prompt, *changes, "--out", str(tmp_path)]
    assert run("attention", *given, "--at", "0.1,0.4", "--step", "3", "--seed", "5", "--device", "cpu") == 0
    (picture,), (film,) = tmp_path.glob("*-seed5.png"), tmp_path.glob("*-seed5.mp4")
    assert np.asarray(Image.open(picture).convert("RGB")).std() > 10
    clip = read_clip(film)
    assert tuple(clip.video.shape) == (12, 256, 256, 3)
    assert clip.audio.abs().max() > 0
    out = capsys.readouterr().out
    assert "token 3, at 0.11 s: most at" in out
    assert "token 12, at 0.40 s: most at" in out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps of the small model, with a checkpoint of each."""
    changes = (
        "batch_size=2", "data.clips=4", "data.kinds=[flash]", "ema=null", "optimizer.warmup_steps=0",
        "trainer.max_steps=2", "trainer.checkpoint_every_steps=1",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("trained") / "run"
    # as long as any clip of the toy world needs
    longer = [*SMALL, "clip.duration_s=2.0", *(f"training.{one}" for one in changes)]
    runs.train(load_recipe(TINY, longer), folder)
    return folder


def test_the_command_draws_a_checkpoint_of_a_training(trained: Path, tmp_path: Path) -> None:
    """By its name in the run, and by its path beside a recipe: the same picture, which is not that of the end."""
    pytest.importorskip("matplotlib")
    given = ("--prompt", ITEM.prompt, "--device", "cpu", "--tokens", "3", "-o", "sampling.steps=2")
    assert run("attention", str(trained), "--checkpoint", "step-000001", *given) == 0
    path = trained / "checkpoints/step-000001.ckpt"
    kept, taken = checkpoint_weights(path), load_file(path.with_suffix(".safetensors"))
    assert kept.keys() == taken.keys()
    assert all(torch.equal(kept[name], taken[name]) for name in kept)
    assert run("attention", str(trained), *given) == 0

    lock = trained / "recipe.lock.yaml"
    assert run("attention", str(lock), "--checkpoint", str(path), *given, "--out", str(tmp_path / "path")) == 0

    def drawn(folder: Path) -> Any:
        (picture,) = folder.glob("*.png")
        return np.asarray(Image.open(picture).convert("RGB"), dtype=np.int16)

    named = drawn(trained / "attention-step-000001")
    assert np.array_equal(named, drawn(tmp_path / "path"))
    assert not np.array_equal(named, drawn(trained / "attention"))


def test_a_checkpoint_that_is_not_there_is_told(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("attention", str(trained), "--checkpoint", "step-7", "--prompt", "a ball") == 2
    told = capsys.readouterr().err
    assert f"error: {trained / 'checkpoints'}: this run has no checkpoint 'step-7'" in told
    assert "there is last.ckpt, step-000001.ckpt, step-000002.ckpt" in told
    elsewhere = trained / "checkpoints/a/b.ckpt"
    assert run("attention", str(TINY), "--checkpoint", str(elsewhere), "--prompt", "a ball") == 2
    assert "this is not the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at", "0.1,9"], "--at: 9 s lies outside of the sound, which lasts 0.48 s"),
        (["--at", "soon"], "--at: 'soon' is no list of seconds"),
        (["--tokens", "15"], "--tokens: there is no audio token 15: a clip has 15, from 0 on"),
        (["--tokens", "1", "--at", "0.1"], "--at and --tokens were given"),
        (["--layers", "0-7"], "--layers: there is no layer 3, 4, 5, 6, 7: the model has 3"),
        (["--prompt", " "], "--prompt: the prompt is empty"),
        (["-o", "model.fusion.type=none"], "model.fusion: fusion 'none' has no such attention to show"),
    ],
)
def test_errors_are_one_message(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    changes = [part for one in SMALL for part in ("-o", one)]
    prompt = [] if "--prompt" in options else ["--prompt", "a ball"]
    given = [str(TINY), "--checkpoint", str(weights), *prompt, *changes, "--out", str(tmp_path), *options]
    assert run("attention", *given) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_grids_of_the_small_clip() -> None:
    """What the numbers in these tests rest on."""
    recipe = load_recipe(TINY, SMALL)
    grids: AV[TokenGrid] = build_codecs(recipe).map(lambda codec: codec.grid())
    assert [grid.shape for grid in grids.values()] == [(3, 4, 4), (15, 1, 1)]
