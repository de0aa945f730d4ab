"""What all tests share.

OVIKIT_TEST_WITHOUT_PLUGINS=1 hides every ``ovikit_*`` package, as if ``plugins/`` were not there: the library's
own tests (tests/unit and tests/contracts) pass like that, and ``make test`` runs them so. They therefore use ovikit's
built-ins or components that they define, never a first-party plugin.

Tests enforce the jaxtyping annotations of the modules in CHECKED, by beartype, unless JAXTYPING_DISABLE=1. A test that
torch.compile cannot trace with the checks in between is marked ``unchecked_shapes``. Outside tests nothing is checked.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

import jaxtyping
import pytest

# Tests leave nothing in the user's own cache, and nothing that lies there helps them.
if "OVIKIT_TEST_CACHE" not in os.environ:
    os.environ["OVIKIT_TEST_CACHE"] = os.environ["OVIKIT_CACHE"] = tempfile.mkdtemp(prefix="ovikit-tests-")
    atexit.register(shutil.rmtree, os.environ["OVIKIT_CACHE"], ignore_errors=True)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a file that is missing is told at once
# What a shell starts in the background ignores Ctrl-C, and so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

WITHOUT = "OVIKIT_TEST_WITHOUT_PLUGINS"
CHECKED = (
    "ovikit.checkpoints.lora",
    "ovikit.data.mel",
    "ovikit.figures.affinity",
    "ovikit.figures.attention_film",
    "ovikit.figures.recorder",
    "ovikit.generate.image",
    "ovikit.networks.attention",
    "ovikit.networks.axes",
    "ovikit.networks.exchange",
    "ovikit.networks.flash",
    "ovikit.networks.joint",
    "ovikit.networks.lora",
    "ovikit.networks.modulation",
    "ovikit.networks.protocols",
    "ovikit.networks.rotary",
    "ovikit.networks.stages",
    "ovikit.numerics.path",
    "ovikit.testing.reference",
    "ovikit.types",
    "ovikit_fusions.additive",
    "ovikit_fusions.asymmetric_window",
    "ovikit_fusions.bridge",
    "ovikit_fusions.gated_residual",
    "ovikit_fusions.global_local",
    "ovikit_fusions.joint",
    "ovikit_fusions.meeting",
    "ovikit_fusions.reading",
    "ovikit_fusions.windows",
    "ovikit_guidances.differences",
    "ovikit_ovi.audio.codec",
    "ovikit_ovi.audio.networks",
    "ovikit_ovi.audio.weight_norm",
    "ovikit_ovi.fusion",
    "ovikit_ovi.positions",
    "ovikit_ovi.text.conditioner",
    "ovikit_ovi.text.encoder",
    "ovikit_ovi.tower",
    "ovikit_ovi.video.causal",
    "ovikit_ovi.video.codec",
    "ovikit_ovi.video.tiling",
    "ovikit_positions.schemes",
)

# The hook changes modules while they are imported: on those that are there already it would silently do nothing.
if not jaxtyping.config.jaxtyping_disable:
    if early := [name for name in CHECKED if name in sys.modules]:
        raise pytest.UsageError(f"imported before their shapes could be checked: {', '.join(early)}")
    jaxtyping.install_import_hook(CHECKED, "beartype.beartype")


class _NoPlugins(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0].startswith("ovikit_"):
            raise ModuleNotFoundError(f"No module named {name!r} ({WITHOUT} is set)", name=name)
        return None


if os.environ.get(WITHOUT):
    sys.meta_path.insert(0, _NoPlugins())
    os.environ["OVIKIT_PLUGINS"] = "builtins"


LONGEST = ("recipes/test_claims.py", "recipes/test_clip_recipe.py", "recipes/test_ablation_run.py")
"""What takes minutes starts first, so that no worker is left with it while the others have ended."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test marked ``unchecked_shapes`` in a process of its own, where the annotations are only read."""
    if pyfuncitem.get_closest_marker("unchecked_shapes") is None or jaxtyping.config.jaxtyping_disable:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    done = subprocess.run(
        command, cwd=pyfuncitem.config.rootpath, env=os.environ | {"JAXTYPING_DISABLE": "1"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return True
