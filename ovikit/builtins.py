"""The plugin that ships inside ovikit: its parts register through the same hooks as everyone's. Torch-free."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from ovikit.builtin_attention import COMPONENTS as ATTENTIONS
from ovikit.builtin_data import CAPTIONERS, DATASETS
from ovikit.builtin_numerics import COMPONENTS as NUMERICS
from ovikit.files import writing
from ovikit.hub import SCHEME, HubFile
from ovikit.kernel.component import Component, NoOptions
from ovikit.kernel.events import ClipFinished, Event, RecipeValidated, RunFailed, RunFinished, RunStarted
from ovikit.kernel.hookspecs import hookimpl
from ovikit.layout import EVENTS

if TYPE_CHECKING:
    from ovikit.checkpoints.format import CheckpointFormat
    from ovikit.networks.precision import Precision
    from ovikit.networks.protocols import Attend
    from ovikit.types import AV

ASSETS = "OVIKIT_ASSETS"
_log = logging.getLogger("ovikit")


def _no_fusion(
    config: NoOptions, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
) -> Sequence[None]:
    return (None,) * depth


@hookimpl
def ovikit_register_attentions() -> Sequence[Component]:
    return ATTENTIONS


@hookimpl
def ovikit_register_fusions() -> Sequence[Component]:
    return (Component("none", NoOptions, _no_fusion, "the towers never meet: the control of every fusion"),)


@hookimpl
def ovikit_register_datasets() -> Sequence[Component]:
    return DATASETS


@hookimpl
def ovikit_register_captioners() -> Sequence[Component]:
    return CAPTIONERS


@hookimpl
def ovikit_register_schedules() -> Sequence[Component]:
    return NUMERICS["schedule"]


@hookimpl
def ovikit_register_solvers() -> Sequence[Component]:
    return NUMERICS["solver"]


@hookimpl
def ovikit_register_guidances() -> Sequence[Component]:
    return NUMERICS["guidance"]


@hookimpl
def ovikit_register_objectives() -> Sequence[Component]:
    return NUMERICS["objective"]


def _own_names(config: NoOptions) -> CheckpointFormat:
    from ovikit.checkpoints.format import CheckpointFormat
    from ovikit.checkpoints.keymap import KeyMap, Rule

    return CheckpointFormat("ovikit", KeyMap([Rule("{r}", "{r}")]), anchors=())


@hookimpl
def ovikit_register_checkpoint_formats() -> Sequence[Component]:
    return (Component("ovikit", NoOptions, _own_names, "ovikit's own names, as in the weights of a run"),)


@hookimpl
def ovikit_resolve_asset(uri: str, cache_dir: Path) -> Path | None:
    """An existing path, a ``file:`` or ``hf:`` URI, or a name inside the folders that OVIKIT_ASSETS lists."""
    parsed = urlparse(uri)
    if parsed.scheme == SCHEME:
        return HubFile.parse(uri).path()
    if parsed.scheme == "file":
        return _existing(Path(unquote(parsed.path)))
    folders = [Path(), *(Path(one) for one in os.environ.get(ASSETS, "").split(os.pathsep) if one)]
    found = (_existing((folder / uri).expanduser()) for folder in folders)
    return next((path for path in found if path is not None), None)


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


@hookimpl
def ovikit_recipe_validated(event: RecipeValidated) -> None:
    _log.info("recipe %s is valid: %s %s", event.path, event.name, event.digest[:16])


@hookimpl
def ovikit_run_started(event: RunStarted) -> None:
    _record(event, event.run)


@hookimpl
def ovikit_clip_finished(event: ClipFinished) -> None:
    _record(event, event.run)


@hookimpl
def ovikit_run_finished(event: RunFinished) -> None:
    _record(event, event.run)


@hookimpl
def ovikit_run_failed(event: RunFailed) -> None:
    _record(event, event.run)


def _record(event: Event, run: Path) -> None:
    """Adds a line to the run's journal, ``events.jsonl``."""
    line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event.hook}
    line |= {key: str(value) if isinstance(value, Path) else value for key, value in asdict(event).items()}
    path = run / EVENTS
    with writing(path):
        run.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line, ensure_ascii=False) + "\n")
