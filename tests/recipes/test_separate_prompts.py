"""A text for each tower, from the prompt to the clip: what each tower reads, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from ovikit.cli import build_app
from ovikit.evaluation.protocols import PromptItem
from ovikit.generate.batch import ClipMaker, SizedCodecs
from ovikit.generate.jobs import Shape, plan
from ovikit.generate.orders import prepared_texts
from ovikit.generate.run import find_source, generate
from ovikit.generate.texts import TextCache
from ovikit.generate.watch import Unwatched
from ovikit.layout import LOCK, WEIGHTS
from ovikit.networks.joint import JointModel
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, build_sampling, clip_spec
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import write_lock
from ovikit.types import AV

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "ovi.yaml"
SMALL = [
    "sampling.steps=2", "sampling.guidance.video=2.0", "model.video.feed_forward_width=40",
    "model.audio.feed_forward_width=40",
]  # fmt: skip
RED = "A small red ball flashes once in the middle. Audio: one low tone."
BLUE = "A large blue ball bounces on the left. Audio: one low tone."
HIGH = "A small red ball flashes once in the middle. Audio: three high tones."


def drawn(model: JointModel) -> dict[str, Tensor]:
    """Weights in which everything takes part: as they are built, heads and gates are zero."""
    generator = torch.Generator().manual_seed(1)
    return {n: v + 0.05 * torch.randn(v.shape, generator=generator) for n, v in model.state_dict().items()}


def latents(prompts: str, fusion: str, *texts: str) -> AV[Tensor]:
    """The latents of one clip of each prompt, all from the same noise."""
    options = ["model.fusion.type=none"] if fusion == "none" else []
    recipe = load_recipe(RECIPE, [*SMALL, *options, f"model.conditioner.prompts={prompts}"])
    codecs, conditioner = build_codecs(recipe), build_conditioner(recipe)
    model = build_model(recipe, codecs, conditioner)
    model.load_state_dict(drawn(model))
    items = [PromptItem(str(i), text) for i, text in enumerate(texts)]
    read = prepared_texts(items, conditioner, lambda note: None)
    kept = TextCache().of(conditioner)
    kept.encode([text for one in read for text in one.values()] + [""])
    form = clip_spec(recipe)
    maker = ClipMaker(model, SizedCodecs(codecs, form), kept, build_sampling(recipe), torch.float32)
    shape = Shape((form.height_px, form.width_px))
    made = [
        maker.latents([job], {})
        for job in (plan([item], [shape], [text], 3)[0] for item, text in zip(items, read, strict=True))
    ]
    return AV(torch.cat([one["video"] for one in made]), torch.cat([one["audio"] for one in made]))


def test_without_fusion_each_tower_follows_its_own_text_alone() -> None:
    found = latents("separate", "none", RED, BLUE, HIGH)
    red, blue, high = found["audio"]
    assert torch.equal(red, blue)
    assert not torch.equal(red, high)
    red, blue, high = found["video"]
    assert torch.equal(red, high)
    assert not torch.equal(red, blue)


def test_combined_prompts_tell_each_tower_all() -> None:
    for values in latents("combined", "none", RED, BLUE, HIGH).values():
        assert not torch.equal(values[0], values[1])
        assert not torch.equal(values[0], values[2])


def test_through_the_fusion_the_texts_reach_the_other_tower() -> None:
    found = latents("separate", "ovi", RED, BLUE, HIGH)
    assert not torch.equal(found["audio"][0], found["audio"][1])
    assert not torch.equal(found["video"][0], found["video"][2])


def test_one_text_for_both_towers_changes_nothing() -> None:
    """A prompt that is all of it in both towers' texts: what separate does is give texts, and no more."""
    recipe = load_recipe(RECIPE, SMALL)
    conditioner = build_conditioner(recipe)
    parted = build_conditioner(load_recipe(RECIPE, [*SMALL, "model.conditioner.prompts=separate"]))
    assert torch.equal(conditioner.encode([RED]).tokens, parted.encode([RED]).tokens)
    assert conditioner.fingerprint() != parted.fingerprint()


class Notes(Unwatched):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe(RECIPE, [*SMALL, "model.conditioner.prompts=separate"])
    write_lock(recipe, folder / LOCK)
    model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe))
    save_file(drawn(model), folder / WEIGHTS, {"digest": recipe.digest, "step": "0"})
    return folder


def test_sidecar_tells_both_texts_and_a_prompt_without_caption_is_noted(run: Path, tmp_path: Path) -> None:
    shown = Notes()
    items = [PromptItem("both", RED), PromptItem("seen", "A red ball."), PromptItem("heard", "Audio: one low tone.")]
    assert len(generate(find_source(run), items, tmp_path, watcher=shown).made) == 3
    assert "prompt seen: it has no audio caption: the audio tower reads the empty prompt" in shown.told
    assert "prompt heard: it says nothing of what is seen: the video tower reads the empty prompt" in shown.told
    assert not any(note.startswith("prompt both") for note in shown.told)
    told = {item.id: json.loads((tmp_path / f"{item.id}.json").read_text()) for item in items}
    assert told["both"]["prepared_prompt"] == {
        "video": "A small red ball flashes once in the middle.", "audio": "one low tone.",
    }  # fmt: skip
    assert told["seen"]["prepared_prompt"] == {"video": "A red ball.", "audio": ""}
    assert told["both"]["prompt"] == RED
    assert told["both"]["parts"]["conditioner"].endswith("/separate")
    again = generate(find_source(run), items, tmp_path)
    assert (again.made, again.skipped) == ((), 3)


def test_prompt_check_shows_what_the_towers_of_such_a_recipe_read(run: Path) -> None:
    arguments = ["prompt", "check", RED, "A red ball.", "--recipe", str(run / LOCK)]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert lines[:3] == ["prompt 1", "video A small red ball flashes once in the middle.", "audio one low tone."]
    assert "audio nothing: this tower reads the empty prompt" in lines
