"""Where a model comes from: a recipe or the folder of a run, with a file or a folder of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import Place
from ovikit.checkpoints.lora import Merging
from ovikit.errors import UserError
from ovikit.layout import ADAPTERS, LOCK, WEIGHTS
from ovikit.networks.protocols import Codec, Conditioner, Licensed
from ovikit.recipe.build import build_codecs, build_conditioner, find_assets, load_adapters
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from.

    weights:  file of the network's weights; None: the recipe's own checkpoint is read
    adapters: files or folders of adapters that are added to them, each with a factor of its strength
    folder:  where what is made of it goes by default
    assets:  where the recipe's components find their weights
    """

    recipe: Recipe
    weights: Path | None
    folder: Path
    assets: Assets
    adapters: tuple[tuple[Path, float], ...] = ()

    def network(self) -> Path:
        """The file of the network's weights. UserError where there is none."""
        if self.weights is not None:
            if not self.weights.is_file():
                raise UserError("no such weights file", str(self.weights))
            return self.weights
        slot = self.recipe.model.checkpoint
        assert slot is not None
        return self.assets.path(slot.path)

    def digest(self) -> str:
        """sha256 (hex) of the network's weights; with adapters, of theirs and of the adapters' files together."""
        own = self.assets.digest_of(self.network())
        if not self.adapters:
            return own
        told = [own, *(f"{self.assets.digest_of(path)} {scale!r}" for path, scale in self.adapters)]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def told_adapters(self) -> list[dict[str, Any]]:
        """What is said of the adapters beside a clip."""
        return [
            {"file": path.name, "sha256": self.assets.digest_of(path), "scale": scale} for path, scale in self.adapters
        ]

    def placing(self, model: nn.Module, place: Place) -> Place:
        """``place``, with the adapters added to the weights on their way. UserError for files of another model."""
        if not self.adapters:
            return place
        return Merging(place, [load_adapters(model, path, scale) for path, scale in self.adapters])


@dataclass(frozen=True, slots=True)
class Parts:
    """What stands between the network, files and prompts; none of its weights are read."""

    codecs: AV[Codec]
    conditioner: Conditioner

    def all(self) -> dict[str, Codec | Conditioner]:
        """By their place in the recipe."""
        codecs = {f"codecs.{modality}": codec for modality, codec in self.codecs.items()}
        return {**codecs, "conditioner": self.conditioner}

    def fingerprints(self) -> dict[str, str]:
        """Of each, with the digests of its weights. UserError for weights that are missing."""
        return {place: part.fingerprint() for place, part in self.all().items()}

    def terms(self) -> list[str]:
        """What users of the weights must be told, each once."""
        told = [part.terms() for part in self.all().values() if isinstance(part, Licensed)]
        return list(dict.fromkeys(one for one in told if one))


def build_parts(source: Source) -> Parts:
    """The codecs and the conditioner of a source."""
    recipe, assets = source.recipe, source.assets
    return Parts(build_codecs(recipe, assets), build_conditioner(recipe, assets))


def find_source(
    source: Path,
    overrides: Sequence[str] = (),
    weights: Path | None = None,
    trained: Path | None = None,
    adapters: Sequence[tuple[Path, float]] = (),
) -> Source:
    """The recipe and the weights of a recipe file, or of the folder of a training run.

    weights: a file takes the place of the network's own weights; in a folder all of a recipe's weights are found, but
             for those of a network that the run itself has trained
    trained: file with those; default: what the run ended with
    adapters: files of adapters with their factors, in addition to the run's own

    UserError where there are no weights, or no such run.
    """
    root = weights if weights is not None and weights.is_dir() else None
    file = weights if root is None else None
    assets = find_assets(root)
    if not source.is_dir():
        recipe = load_recipe(source, overrides)
        found = Source(recipe, file, Path("runs") / recipe.name, assets, tuple(adapters))
        if file is None:
            _refuse_without_weights(found, source)
        return found
    lock = source / LOCK
    if not lock.is_file():
        raise UserError(f"this is not the folder of a run: it has no {LOCK}", str(source))
    recipe = load_recipe(lock, overrides)
    adapting = recipe.training is not None and recipe.training.lora is not None
    own = trained or source / (ADAPTERS if adapting else WEIGHTS)
    if (adapting or file is None) and not own.is_file():
        raise UserError(
            f"this run has no {own.name}: its training has not ended", str(source), "ovikit train continues it"
        )
    if adapting:
        return Source(recipe, file, source, assets, ((own, 1.0), *adapters))
    return Source(recipe, file or own, source, assets, tuple(adapters))


def _refuse_without_weights(found: Source, path: Path) -> None:
    recipe, root = found.recipe, found.assets.root
    if recipe.model.checkpoint is None:
        what = f"recipe '{recipe.name}' has no trained weights to generate with"
        hint = f"train it and give the run's folder: ovikit train {path}; or give --weights FILE"
        if root is not None:
            what = f"recipe '{recipe.name}' names no file of the folder {root}: it has no model.checkpoint"
        raise UserError(what, str(path), hint)
    if root is None:
        try:
            found.network()
        except UserError as error:
            raise UserError(
                f"the weights of recipe '{recipe.name}' are not here: {recipe.model.checkpoint.path}",
                str(path),
                "give the folder that they were downloaded to: --weights DIR",
            ) from error
