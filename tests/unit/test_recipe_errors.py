"""Bad recipes, each with the exact message it must give: file, line, path, what exists, what is closest."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_kit import GOOD, SUITE, kit_catalog, write

from ovikit.errors import UserError
from ovikit.recipe.load import load_recipe, load_suite

FUSION, RATIO, TOWER, STEPS = "fusion: {type: ovi}", "    ratio: 0.19", "video: {type: tower, width: 16}", "steps: 4"
FUSIONS = "there are: gated, none, ovi"
CLIP = "there are: area_px, duration_s, frame_rate_hz, height_px, sample_rate_hz, width_px"
BAG = "conditioner: {type: bag}"

# What is replaced in the good recipe, by what, and the message.
BAD = [
    # components
    (FUSION, "fusion: {type: ovvi}",
     f"r.yaml:7: model.fusion.type: there is no fusion named 'ovvi'; {FUSIONS}. Did you mean 'ovi'?"),
    (FUSION, "fusion: {type: diagonal}",
     f"r.yaml:7: model.fusion.type: there is no fusion named 'diagonal'; {FUSIONS}"),
    (FUSION, "fusion: ovi",
     f"r.yaml:7: model.fusion: should be a mapping with a type, such as {{type: NAME}}, not 'ovi'; {FUSIONS}"),
    (FUSION, "fusion: null",
     f"r.yaml:7: model.fusion: should be a mapping with a type, such as {{type: NAME}}, not null; {FUSIONS}"),
    (f"  {FUSION}\n", "", f"r.yaml:4: model.fusion: is missing; {FUSIONS}"),
    (FUSION, "fusion: {scale: 1}", f"r.yaml:7: model.fusion: type is missing; {FUSIONS}"),
    (FUSION, "fusion: {type: 3}", f"r.yaml:7: model.fusion: type should be a name, not 3; {FUSIONS}"),
    # options of components
    (FUSION, "fusion: {type: ovi, scale: 1}", "r.yaml:7: model.fusion.scale: unknown key; there are: type"),
    (RATIO, "    ratoi: 0.19",
     "r.yaml:10: model.positions.ratoi: unknown key; there are: ratio, type. Did you mean 'ratio'?"),
    (FUSION, "fusion: {type: gated, gate: {scael: 1.0}}",
     "r.yaml:7: model.fusion.gate.scael: unknown key; there are: scale. Did you mean 'scale'?"),
    (FUSION, "fusion: {type: gated, per_layer: {a: x}}",
     "r.yaml:7: model.fusion.per_layer.a: should be a valid number, not 'x'"),
    (RATIO, "    ratio: fast", "r.yaml:10: model.positions.ratio: should be a valid number, not 'fast'"),
    (TOWER, "video: {type: tower}", "r.yaml:5: model.video.width: is missing"),
    (TOWER, "video: {type: tower, width: -16}", "r.yaml:5: model.video.width: should be greater than 0, not -16"),
    (TOWER, "video: {type: tower, width: 18}", "r.yaml:5: model.video: 4 heads do not divide a width of 18"),
    (TOWER, "video: {type: tower, width: 16, patch: 2}", "r.yaml:5: model.video.patch: should be a list, not 2"),
    (TOWER, "video: {type: tower, width: 16, patch: [1, 2]}", "r.yaml:5: model.video.patch.2: is missing"),
    (TOWER, "video: {type: tower, width: 16, norm: batch}",
     "r.yaml:5: model.video.norm: should be 'layer' or 'rms', not 'batch'"),
    # sections
    (STEPS, "steps: 4.0", "r.yaml:19: sampling.steps: should be a valid integer, not 4.0"),
    (STEPS, "steps: '4'", "r.yaml:19: sampling.steps: should be a valid integer, not '4'"),
    (STEPS, "steps: true", "r.yaml:19: sampling.steps: should be a valid integer, not true"),
    (STEPS, "steps: 0", "r.yaml:19: sampling.steps: should be greater than 0, not 0"),
    ("  steps: 4\n", "", "r.yaml:15: sampling.steps: is missing"),
    (STEPS, "steps: 4\n  seed: 99999999999999999999",
     "r.yaml:20: sampling.seed: should be less than 4611686018427387904, not 99999999999999999999"),
    (STEPS, "steps: 4\n  step: 3",
     "r.yaml:20: sampling.step: unknown key; there are: guidance, negative, same_noise_seed, schedule, seed, solver, "
     "steps. Did you mean 'steps'?"),
    ("clip: {duration_s: 2, ", "clip: {duration: 2, ",
     "2 errors\n  r.yaml:3: clip.duration_s: is missing\n"
     f"  r.yaml:3: clip.duration: unknown key; {CLIP}. Did you mean 'duration_s'?"),
    ("height_px: 32,", "height_px: 32.5,", "r.yaml:3: clip.height_px: should be a valid integer, not 32.5"),
    ("max_steps: 3", "max_steps: 3, precision: fp16",
     "r.yaml:25: training.trainer.precision: should be '32-true', 'bf16-mixed', '16-mixed', 'bf16-true' or "
     "'64-true', not 'fp16'"),
    ("max_steps: 3", "max_steps: 3, callbacks: []",
     "r.yaml:25: training.trainer.callbacks: unknown key; there are: accelerator, activation_checkpointing, "
     "checkpoint_every_steps, checkpoints, compile, devices, gradient_clip, keep_checkpoints, log_every_steps, "
     "loggers, max_steps, nodes, precision, sequence, strategy, workers"),
    ("betas: [0.9, 0.95]", "betas: [0.9]", "r.yaml:24: training.optimizer.betas.1: is missing"),
    ("batch_size: 2", "batch_size: 2\n  text_dropout: 1.5",
     "r.yaml:24: training.text_dropout: should be less than or equal to 1, not 1.5"),
    ("batch_size: 2", "batch_size: 2\n  ema: {decay: 1.0}",
     "r.yaml:24: training.ema.decay: should be less than 1, not 1.0"),
    ("batch_size: 2", "batch_size: 2\n  freeze: video", "r.yaml:24: training.freeze: should be a list, not 'video'"),
    ("training:\n", "training: yes\ntrained:\n",
     "2 errors\n  r.yaml:20: training: should be a mapping, not 'yes'\n  r.yaml:21: trained: unknown key; there are: "
     "clip, evaluation, model, name, preparation, runtime, sampling, training, version. Did you mean 'training'?"),
    ("  suite: suites/toy.yaml", "  suites: [a]",
     "2 errors\n  r.yaml:26: evaluation.suite: is missing\n"
     "  r.yaml:27: evaluation.suites: unknown key; there are: suite. Did you mean 'suite'?"),
    # parts that do not fit each other
    (TOWER, "video: null",
     "r.yaml:4: model: fusion 'ovi' needs two towers; with one, write fusion: {type: none}"),
    ("    video: {type: dct}\n", "", "r.yaml:4: model: there is a video tower but codecs.video is missing"),
    (f"  {TOWER}\n  audio: {{type: tower, width: 16, heads: 2}}", "  seed: 1",
     "r.yaml:4: model: a model needs a video tower, an audio tower, or both"),
    (f"{TOWER}\n  audio: {{type: tower, width: 16, heads: 2}}\n  {FUSION}",
     "audio: {type: tower, width: 16}\n  fusion: {type: none}",
     "r.yaml:1: training.stage is 'joint' but model.video is null"),
    # checkpoints
    (BAG, f"{BAG}\n  checkpoint: {{type: official}}",
     "r.yaml:15: model.checkpoint: path is missing: the weight file to read"),
    (BAG, f"{BAG}\n  checkpoint: {{type: officail, path: x}}",
     "r.yaml:15: model.checkpoint.type: there is no checkpoint_format named 'officail'; there are: official. "
     "Did you mean 'official'?"),
    (BAG, f"{BAG}\n  checkpoint: {{type: official, path: x, strict: no}}",
     "r.yaml:15: model.checkpoint.strict: unknown key; there are: path, type"),
    # the document
    ("version: 1", "version: 2",
     "r.yaml:1: version: version 2 is not known here; this ovikit reads version 1"),
    ("version: 1\n", "", "r.yaml:1: version: is missing"),
    ("name: good", "name: ''", "r.yaml:2: name: should have at least 1 character, not ''"),
    ("name: good", "name: 12", "r.yaml:2: name: should be a valid string, not 12"),
    ("name: good", "name: good\nextends: nowhere.yaml", "r.yaml:3: extends: there is no file nowhere.yaml"),
    ("name: good", "name: good\nextends: r.yaml", "r.yaml:3: extends: a recipe cannot extend itself: r.yaml -> r.yaml"),
    ("name: good", "name: good\nextends: [a.yaml, b.yaml]",
     "r.yaml:3: extends: should be the path of one recipe, not a list"),
    # YAML
    (RATIO, "    ratio: .nan", "r.yaml:10: model.positions.ratio: should be a finite number, not .nan"),
    (STEPS, "steps: -.inf", "r.yaml:19: sampling.steps: should be a finite number, not -.inf"),
    (RATIO, f"{RATIO}\n    ratio: 0.2", "r.yaml:11: model.positions.ratio: the key is written twice, first on line 10"),
    (RATIO, "    ratio: !!python/object:os.system x",
     "r.yaml:10: model.positions.ratio: tags are not allowed: !!python/object:os.system"),
    (RATIO, "    <<: {ratio: 1.0}",
     "r.yaml:10: model.positions: merge keys (<<) are not allowed; a recipe builds on another with extends"),
    (RATIO, "    1: 2", "r.yaml:10: model.positions: a key should be a word, not 1"),
    (RATIO, "   ratio: 0.19",
     "r.yaml:10: this is not YAML: expected <block end>, but found '<block mapping start>'"),
    ("name: good", "name: *good", "r.yaml:2: this is not YAML: found undefined alias 'good'"),
    ("name: good", "name: &a [*a]", "r.yaml:2: name.0: an alias to what contains it"),
    (GOOD, "- a\n", "r.yaml:1: the document should be a mapping, not a list"),
    (GOOD, "", "r.yaml:1: the document should be a mapping, not null"),
    (GOOD, "a: 1\n---\nb: 2\n", "r.yaml:2: this is not YAML: but found another document"),
    # several at once
    ("steps: 4\ntraining:\n", "steps: x\ntraining:\n  sateg: joint\n",
     "2 errors\n  r.yaml:19: sampling.steps: should be a valid integer, not 'x'\n  r.yaml:21: training.sateg: unknown "
     "key; there are: batch_size, data, ema, first_frame, freeze, frozen, initial, lora, micro_batches, "
     "modality_dropout, objective, optimizer, same_noise, seed, stage, text_dropout, trainer, validation. "
     "Did you mean 'stage'?"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=lambda text: text.strip()[:40].replace("\n", "|"))
def test_a_bad_recipe_gives_its_message(old: str, new: str, message: str) -> None:
    assert old in GOOD
    write(Path(), GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_recipe("r.yaml", catalog=kit_catalog())
    assert caught.value.render() == message


BAD_OVERRIDES = [
    ("sampling.steps", "-o sampling.steps: an override is written path=value, such as sampling.steps=20"),
    ("=3", "-o =3: an override is written path=value, such as sampling.steps=20"),
    ("sampling.stepz=3",
     "-o sampling.stepz=3: sampling.stepz: there is no such option; there are: guidance, negative, "
     "same_noise_seed, schedule, seed, solver, steps. Did you mean 'steps'?"),
    ("sampling.steps=x", "-o sampling.steps=x: sampling.steps: should be a valid integer, not 'x'"),
    ("sampling.steps=", "-o sampling.steps=: sampling.steps: should be a valid integer, not null"),
    ("model.positions.ratoi=1",
     "-o model.positions.ratoi=1: model.positions.ratoi: there is no such option; there are: ratio, type. "
     "Did you mean 'ratio'?"),
    ("model.fusion.type=ovvi",
     f"-o model.fusion.type=ovvi: model.fusion.type: there is no fusion named 'ovvi'; {FUSIONS}. Did you mean 'ovi'?"),
    ("model.fusion=ovi",
     "-o model.fusion=ovi: model.fusion: should be a mapping with a type, such as {type: NAME}, not 'ovi'; "
     f"{FUSIONS}"),
    ("model.checkpoint.path=x",
     "-o model.checkpoint.path=x: model.checkpoint.path: model.checkpoint is empty; set model.checkpoint.type first"),
    ("model.video.patch.0=1",
     "-o model.video.patch.0=1: model.video.patch.0: there is nothing below model.video.patch"),
    ("name.x=1", "-o name.x=1: name.x: there is nothing below name"),
    ("clip.duration_s=.nan", "-o clip.duration_s=.nan: should be a finite number, not .nan"),
    ("clip.duration_s=[",
     "-o clip.duration_s=[: this is not YAML: expected the node content, but found '<stream end>'"),
    ("extends=x.yaml",
     "-o extends=x.yaml: extends: there is no such option; there are: clip, evaluation, model, name, preparation, "
     "runtime, sampling, training, version"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), BAD_OVERRIDES, ids=[override for override, _ in BAD_OVERRIDES])
def test_a_bad_override_gives_its_message(override: str, message: str) -> None:
    write(Path(), GOOD)
    with pytest.raises(UserError) as caught:
        load_recipe("r.yaml", [override], kit_catalog())
    assert caught.value.render() == message


BAD_SUITES = [
    ("{type: colours}", "{type: colors}",
     "s.yaml:7: evaluators.1.type: there is no evaluator named 'colors'; there are: colours, onsets. "
     "Did you mean 'colours'?"),
    ("clips: 4", "clips: 0", "s.yaml:4: prompts.clips: should be greater than 0, not 0"),
    ("\n  - {type: onsets}\n  - {type: colours}", " []", "s.yaml:5: evaluators: should have at least 1 item, not 0"),
    ("\n  - {type: onsets}\n  - {type: colours}", " onsets",
     "s.yaml:5: evaluators: should be a list of mappings with a type, not 'onsets'; there are: colours, onsets"),
    ("profile: toy-v1\n", "", "s.yaml:1: profile: is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), BAD_SUITES, ids=lambda text: text.strip()[:40])
def test_a_bad_suite_gives_its_message(old: str, new: str, message: str) -> None:
    assert old in SUITE
    write(Path(), SUITE.replace(old, new), "s.yaml")
    with pytest.raises(UserError) as caught:
        load_suite("s.yaml", catalog=kit_catalog())
    assert caught.value.render() == message


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"^nothing\.yaml: there is no such file$"):
        load_recipe("nothing.yaml", catalog=kit_catalog())


def test_a_problem_in_a_parent_is_placed_in_the_parent() -> None:
    write(Path(), GOOD.replace("steps: 4", "steps: x"), "parent.yaml")
    write(Path(), "name: child\nextends: parent.yaml\n")
    with pytest.raises(UserError, match=r"^parent\.yaml:19: sampling\.steps: should be a valid integer"):
        load_recipe("r.yaml", catalog=kit_catalog())
