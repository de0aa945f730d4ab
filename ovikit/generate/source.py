"""Where a model comes from: a recipe or the folder of a run, with a file or a folder of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.layout import LOCK, WEIGHTS
from ovikit.networks.protocols import Codec, Conditioner, Licensed
from ovikit.recipe.build import build_codecs, build_conditioner, find_assets
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from.

    weights: file of the network's weights; None: the recipe's own checkpoint is read
    folder:  where what is made of it goes by default
    assets:  where the recipe's components find their weights
    """

    recipe: Recipe
    weights: Path | None
    folder: Path
    assets: Assets

    def network(self) -> Path:
        """The file of the network's weights. UserError where there is none."""
        if self.weights is not None:
            if not self.weights.is_file():
                raise UserError("no such weights file", str(self.weights))
            return self.weights
        slot = self.recipe.model.checkpoint
        assert slot is not None
        return self.assets.path(slot.path)


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
    source: Path, overrides: Sequence[str] = (), weights: Path | None = None, trained: Path | None = None
) -> Source:
    """The recipe and the weights of a recipe file, or of the folder of a training run.

    weights: a file takes the place of the network's own weights; in a folder all of a recipe's weights are found, but
             for those of a network that the run itself has trained
    trained: file with those; default: what the run ended with

    UserError where there are no weights, or no such run.
    """
    root = weights if weights is not None and weights.is_dir() else None
    file = weights if root is None else None
    assets = find_assets(root)
    if not source.is_dir():
        recipe = load_recipe(source, overrides)
        found = Source(recipe, file, Path("runs") / recipe.name, assets)
        if file is None:
            _refuse_without_weights(found, source)
        return found
    lock, own = source / LOCK, trained or source / WEIGHTS
    if not lock.is_file():
        raise UserError(f"this is not the folder of a run: it has no {LOCK}", str(source))
    if file is None and not own.is_file():
        raise UserError(
            f"this run has no {WEIGHTS}: its training has not ended", str(source), "ovikit train continues it"
        )
    return Source(load_recipe(lock, overrides), file or own, source, assets)


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
