"""The hooks of ovikit: all there is to implement. ``docs/hooks.md`` shows each with an example.

A plugin is a module (or an object) named by an entry point of the group ``ovikit``; it marks its
implementations with ``hookimpl``. Registering only adds names: a recipe decides what is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pluggy
import typer

from ovikit.kernel.component import Component
from ovikit.kernel.events import ClipFinished, RecipeValidated, RunFailed, RunFinished, RunStarted

PROJECT = "ovikit"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ovikit_register_backbones() -> Sequence[Component]:
    """Towers: patch embedding, blocks and head of one modality."""
    ...


@hookspec
def ovikit_register_fusions() -> Sequence[Component]:
    """How the two blocks of a layer interleave."""
    ...


@hookspec
def ovikit_register_positions() -> Sequence[Component]:
    """Schemes that turn a token grid into rotation angles."""
    ...


@hookspec
def ovikit_register_codecs() -> Sequence[Component]:
    """Pixels or waveform to latents and back."""
    ...


@hookspec
def ovikit_register_conditioners() -> Sequence[Component]:
    """Prompt to context tokens."""
    ...


@hookspec
def ovikit_register_attentions() -> Sequence[Component]:
    """Kernels that compute attention."""
    ...


@hookspec
def ovikit_register_schedules() -> Sequence[Component]:
    """Noise levels of a sampling run."""
    ...


@hookspec
def ovikit_register_solvers() -> Sequence[Component]:
    """Integrators of the velocity."""
    ...


@hookspec
def ovikit_register_guidances() -> Sequence[Component]:
    """Which network passes a step makes, and how they become one velocity."""
    ...


@hookspec
def ovikit_register_objectives() -> Sequence[Component]:
    """What training minimises."""
    ...


@hookspec
def ovikit_register_datasets() -> Sequence[Component]:
    """Sources of training clips."""
    ...


@hookspec
def ovikit_register_filters() -> Sequence[Component]:
    """What keeps clips out of a dataset that is prepared."""
    ...


@hookspec
def ovikit_register_captioners() -> Sequence[Component]:
    """Clip to prompt, while a dataset is prepared."""
    ...


@hookspec
def ovikit_register_evaluators() -> Sequence[Component]:
    """Metrics of finished clips."""
    ...


@hookspec
def ovikit_register_overalls() -> Sequence[Component]:
    """One score of many metrics."""
    ...


@hookspec
def ovikit_register_prompt_sets() -> Sequence[Component]:
    """Prompts to evaluate with, and their ground truth where there is one."""
    ...


@hookspec
def ovikit_register_checkpoint_formats() -> Sequence[Component]:
    """Layouts of weight files, as rules between their names and ovikit's."""
    ...


@hookspec(firstresult=True)
def ovikit_resolve_asset(uri: str, cache_dir: Path) -> Path | None:
    """The local file or folder that ``uri`` names, fetched into ``cache_dir`` if need be; None: not mine."""
    ...


@hookspec(firstresult=True)
def ovikit_detect_checkpoint(keys: frozenset[str], metadata: Mapping[str, str]) -> str | None:
    """Name of the checkpoint format of a weight file with these tensor names; None: not mine."""
    ...


@hookspec
def ovikit_recipe_validated(event: RecipeValidated) -> None:
    """A recipe was read and every slot of it is filled."""
    ...


@hookspec
def ovikit_run_started(event: RunStarted) -> None:
    """A command begins to write into its run folder."""
    ...


@hookspec
def ovikit_clip_finished(event: ClipFinished) -> None:
    """One clip lies complete on disk."""
    ...


@hookspec
def ovikit_run_finished(event: RunFinished) -> None:
    """A command ended well."""
    ...


@hookspec
def ovikit_run_failed(event: RunFailed) -> None:
    """A command stopped before its end."""
    ...


@hookspec
def ovikit_register_commands(cli: typer.Typer) -> None:
    """Add commands to the command line."""
    ...
