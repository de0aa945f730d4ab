"""What the contracts of all kinds have in common: finding a component, building it, and how it treats its options."""

from __future__ import annotations

import atexit
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError

from ovikit.errors import UserError
from ovikit.kernel.component import Component
from ovikit.kernel.kinds import KINDS
from ovikit.kernel.manager import GROUP, installed_catalog

SURPLUS = "no_such_option"
_HEAVY = ("torch", "numpy", "lightning", "av", "transformers", "diffusers")


class Contract:
    """The checks that every component passes, whatever its kind. Not for use by itself: subclass a kind's contract.

    component: a name in the installed catalog, or a Component
    options:   what a recipe would write in the slot, validated alike; ``{folder}`` in a text is the folder of ``files``
    requires:  modules without which the checks are skipped
    """

    kind: ClassVar[str] = ""
    component: ClassVar[str | Component] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    requires: ClassVar[tuple[str, ...]] = ()

    def setup_method(self) -> None:
        for name in self.requires:
            pytest.importorskip(name)

    # What a subclass may replace.

    @classmethod
    def files(cls, folder: Path) -> None:
        """Writes the files that the component reads into a new folder, once. By default there are none."""

    @classmethod
    def context(cls) -> dict[str, Any]:
        """The keywords that ``build`` is given beside the options."""
        return {}

    # What the checks use.

    @classmethod
    def found(cls) -> Component:
        """The component under test."""
        assert cls.component, f"{cls.__name__} names nothing to test; set component to a name or a Component"
        if isinstance(cls.component, Component):
            return cls.component
        return installed_catalog().find(cls.kind, cls.component).component

    @classmethod
    @cache
    def folder(cls) -> Path:
        """The folder of the component's files."""
        kept = tempfile.TemporaryDirectory(prefix="ovikit-contract-")
        atexit.register(kept.cleanup)
        cls.files(Path(kept.name))
        return Path(kept.name)

    @classmethod
    def config(cls, changed: Mapping[str, Any] | None = None) -> BaseModel:
        """The options, validated as those of a recipe's slot are; ``changed`` are set beside them."""
        given = {**cls.options, **(changed or {})}
        written = {
            name: value.replace("{folder}", str(cls.folder())) if isinstance(value, str) else value
            for name, value in given.items()
        }
        return cls.found().config.model_validate_json(json.dumps(written), strict=True)

    @classmethod
    def build(cls, changed: Mapping[str, Any] | None = None, **context: Any) -> Any:
        """What the component builds: with options ``changed``, and keywords other than those of ``context()``."""
        return cls.found().build(cls.config(changed), **{**cls.context(), **context})

    # The checks.

    def test_unknown_options_are_refused(self) -> None:
        """A misspelt option is an error, never ignored."""
        try:
            self.config({SURPLUS: 1})
        except ValidationError:
            return
        pytest.fail(
            f"{self.found().config.__name__} takes an option that it does not have ({SURPLUS}); "
            "derive it from ovikit.kernel.component.Config, which refuses unknown keys"
        )

    def test_options_come_back_from_a_lock(self) -> None:
        """Options survive being written to a recipe's lock and read again."""
        config = self.config()
        again = type(config).model_validate_json(config.model_dump_json(), strict=True)
        assert again == config, (
            f"the options {config!r} are {again!r} after they were written as JSON and read again; "
            "use fields that JSON can hold, and validators that leave valid values as they are"
        )

    def test_every_option_is_explained(self) -> None:
        """Each option has a docstring, which ``ovikit plugins show`` prints."""
        silent = [name for name, option in _options(self.found().config) if not option.description]
        assert not silent, f"options without a docstring under their field: {', '.join(silent)}; say what each does"

    def test_build_takes_the_keywords_of_its_kind(self) -> None:
        """``build`` has exactly the keywords that its kind is given: others are an error, none is optional."""
        keywords = dict.fromkeys(KINDS[self.kind].keywords)
        signature = inspect.signature(self.found().build)
        config = self.config()
        wanted = f"write it as build(config, *, {', '.join(keywords)})" if keywords else "write it as build(config)"
        assert _binds(signature, config, keywords), f"build cannot be called with a {self.kind}'s keywords; {wanted}"
        assert not _binds(signature, config, {**keywords, SURPLUS: None}), (
            f"build swallows the keyword {SURPLUS}, and with it every mistake; {wanted}"
        )
        for name in keywords:
            rest = {key: value for key, value in keywords.items() if key != name}
            assert not _binds(signature, config, rest), f"build does without the keyword {name}; {wanted}"

    def test_its_plugin_imports_no_torch(self) -> None:
        """Importing the module that registers the component loads nothing heavy, so that listing plugins is instant."""
        if isinstance(self.component, Component):
            pytest.skip("give the name of an installed component to have its plugin's module looked at")
        plugin = installed_catalog().find(self.kind, self.component).plugin
        module = next(point.value.partition(":")[0] for point in entry_points(group=GROUP) if point.name == plugin.name)
        loaded = heavy_imports(module)
        assert not loaded, (
            f"importing {module} loads {', '.join(loaded)}; import them inside of build, and names that only "
            "annotations use under TYPE_CHECKING"
        )


def _options(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Name and field of every option, those of nested mappings included."""
    for name, option in model.model_fields.items():
        yield name, option
        if isinstance(option.annotation, type) and issubclass(option.annotation, BaseModel):
            yield from ((f"{name}.{inner}", field) for inner, field in _options(option.annotation))


def _binds(signature: inspect.Signature, config: BaseModel, keywords: Mapping[str, Any]) -> bool:
    try:
        signature.bind(config, **keywords)
    except TypeError:
        return False
    return True


@cache
def heavy_imports(module: str) -> tuple[str, ...]:
    """The heavy packages that a fresh process has loaded once it has imported a module."""
    code = f"import sys, {module}\nprint(*(name for name in {_HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{module} cannot be imported by itself:\n{done.stderr}"
    return tuple(done.stdout.split())


@contextmanager
def global_generators_unused(what: str) -> Generator[None, None, None]:
    """AssertionError when the block moves the global random generator of PyTorch or of NumPy.

    Python's own is not looked at: run-time type checkers draw from it.
    """

    def states() -> dict[str, bytes]:
        return {
            "torch": torch.get_rng_state().numpy().tobytes(),
            "numpy": repr(np.random.get_state()).encode(),
        }

    before = states()
    yield
    moved = [name for name, state in states().items() if state != before[name]]
    assert not moved, (
        f"{what} draws from the global generator of {', '.join(moved)}; take random numbers from an explicit "
        "torch.Generator only: weights in init_weights(generator), everything else from a seed among the options"
    )


def refuses(call: Callable[[], object], what: str, *kinds: type[Exception]) -> str:
    """What a call that has to be refused says. AssertionError when it is accepted, or refused without a word.

    kinds: the errors that count; by default those that tell a user something
    """
    errors = kinds or (ValueError, UserError)
    said: str | None = None
    try:
        call()
    except errors as error:
        said = str(error)
    names = " or ".join(kind.__name__ for kind in errors)
    assert said is not None, f"{what} is accepted; raise {names} with what is wrong and what to do"
    assert said, f"{what} is refused without a word; say what is wrong and what to do"
    return said
