"""A joint model to train, whose video tower is plain Wan2.2 TI2V-5B: how the paper's fusion stage begins.

The tower has Wan's tensors and no others. Ovi's file calls them alike behind ``video_model.``, but for a block's
modulation, which lies one module deeper there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.keymap import KeyMap, Rule
from ovikit.checkpoints.load import differences, in_our_names, write_tensors
from ovikit.checkpoints.state import read_state
from ovikit.errors import UserError, listed
from ovikit.networks.init import initialise
from ovikit.recipe.build import build_codecs, build_conditioner, build_model
from ovikit.recipe.models import Recipe
from ovikit.types import Modality
from ovikit_ovi.formats import ovi_format

_NAMES = ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors")
"""What the tower is called in the folder that Wan publishes: shards with an index, or one file."""
_HINT = "it wants Wan-AI/Wan2.2-TI2V-5B as Wan publishes it, not the conversion for diffusers"


def wan_format() -> CheckpointFormat:
    """The format of Wan2.2 TI2V-5B's transformer, as the video tower of a joint model."""
    rules = (
        Rule("blocks.{i}.modulation", "layers.{i}.blocks.video.modulation_bias"),
        Rule("blocks.{i}.cross_attn.{r}", "layers.{i}.blocks.video.context_attn.{r}"),
        Rule("blocks.{i}.norm3.{r}", "layers.{i}.blocks.video.context_norm.{r}"),
        Rule("blocks.{i}.{r}", "layers.{i}.blocks.video.{r}"),
        Rule("{r}", "towers.video.{r}"),
    )
    return CheckpointFormat("wan", KeyMap(rules), anchors=("patch_embedding.weight", "blocks.0.modulation"))


def init_from_wan(recipe: Recipe, wan: Path, output: Path, audio: Path | None = None) -> dict[str, int]:
    """How many tensors came from where. Writes the whole model of the recipe, under ovikit's names.

    wan:   folder, index of shards or file of Wan2.2 TI2V-5B; every tensor of it is used
    audio: file with an audio tower, in Ovi's names or ours; None: drawn. Its other tensors are left
    What neither gives is drawn from the recipe's ``model.seed``. All is in the recipe's number format.
    UserError, before anything is drawn, where a file does not fit the towers; and where ``output`` is there already:
    it may be one of the files to read.
    """
    _refuse_output(output)
    with_both = set(recipe.model.modalities) == {"video", "audio"}
    if not with_both:
        raise UserError("a model to start from Wan has a video and an audio tower", str(recipe.source or recipe.name))
    model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe), "meta")
    path = _wan_file(wan)
    given = _video(path, model)
    told = {str(path): len(given)}
    if audio is not None:
        more = _audio(audio, model)
        told[str(audio)] = len(more)
        given |= more
    dtypes = {name: one.dtype for name, one in model.state_dict().items()}
    seed = recipe.model.seed
    drawn = _drawn(model, given, dtypes, Generator().manual_seed(seed))
    told[f"seed {seed}"] = len(drawn)
    given |= drawn
    tensors = {name: given.pop(name).to(dtype) for name, dtype in dtypes.items()}
    write_tensors(output, tensors, _metadata(recipe, path, audio, told))
    return told


def _refuse_output(output: Path) -> None:
    if output.exists() or output.is_symlink():
        raise UserError("this is there already, and is not overwritten", str(output), "choose another name")
    if output.suffix != ".safetensors":
        raise UserError(
            "the file to write is a .safetensors", str(output), f"such as {output.with_suffix('').name}.safetensors"
        )


def _wan_file(wan: Path) -> Path:
    if not wan.is_dir():
        return wan
    for name in _NAMES:
        if (wan / name).is_file():
            return wan / name
    raise UserError(f"there is neither {' nor '.join(_NAMES)}", str(wan), _HINT)


def _is_of(name: str, modality: Modality) -> bool:
    """Whether one of our names is of that tower, the fusion apart."""
    return name.startswith(f"towers.{modality}.") or f".blocks.{modality}." in name


def _video(path: Path, model: nn.Module) -> dict[str, Tensor]:
    tensors, _ = read_state(path)
    if not wan_format().recognises(tensors):
        raise UserError(
            f"this is not Wan's transformer: its first tensors are {listed(list(tensors), 3)}", str(path), _HINT
        )
    found = in_our_names(tensors, wan_format(), str(path))
    _refuse_other_tower(found, model, "video", str(path))
    return found


def _audio(path: Path, model: nn.Module) -> dict[str, Tensor]:
    tensors, _ = read_state(path)
    if any(name.startswith("audio_model.") for name in tensors):
        tensors = in_our_names(tensors, ovi_format(), str(path))
    found = {name: one for name, one in tensors.items() if _is_of(name, "audio")}
    _refuse_other_tower(found, model, "audio", str(path))
    return found


def _refuse_other_tower(found: Mapping[str, Tensor], model: nn.Module, modality: Modality, where: str) -> None:
    """UserError where tensors are not exactly those of the model's tower."""
    wanted = {name: one for name, one in model.state_dict().items() if _is_of(name, modality)}
    if problems := differences(wanted, found):
        raise UserError(
            f"this is not the recipe's {modality} tower; {problems}", where, "check the tower's sizes in the recipe"
        )


def _drawn(
    model: nn.Module, given: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], generator: Generator
) -> dict[str, Tensor]:
    """Every weight that is not given, drawn module by module in float32, so that numbers do not depend on the format.
    No more than one module is in float32 at a time, and the given weights take no memory meanwhile."""
    found: dict[str, Tensor] = {}
    for name, module in list(_without(model, given, "")):
        module.float().to_empty(device="cpu")
        initialise(module, generator)
        found |= {f"{name}.{key}": one.to(dtypes[f"{name}.{key}"]) for key, one in module.state_dict().items()}
        module.to("meta")
    return found


def _without(module: nn.Module, given: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The largest modules that hold weights and none of the given ones."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        keys = [f"{path}.{key}" for key in child.state_dict()]
        if keys and not any(key in given for key in keys):
            yield path, child
        elif keys and not all(key in given for key in keys):
            yield from _without(child, given, f"{path}.")


def _metadata(recipe: Recipe, wan: Path, audio: Path | None, told: Mapping[str, int]) -> dict[str, str]:
    """What came from where, with the sha256 of every file that was read."""
    read = sorted(wan.parent.glob("*.safetensors")) if wan.suffix == ".json" else [wan]
    files = [*read, *([audio] if audio is not None else [])]
    origin = {
        "tensors": {Path(name).name: count for name, count in told.items()},
        "sha256": {path.name: Assets().digest_of(path) for path in files},
        "seed": recipe.model.seed,
        "torch": torch.__version__,
    }
    return {"recipe": recipe.name, "digest": recipe.digest, "origin": json.dumps(origin)}
