"""The command line as users meet it: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ovikit.cli import build_app, main

RECIPE = """\
version: 1
name: small
clip: {duration_s: 1.0, height_px: 32, width_px: 32, frame_rate_hz: 8.0, sample_rate_hz: 16000}
"""


def exits(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a command."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_an_error_of_the_user_is_one_message_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits(capsys, "recipe", "check", "nowhere.yaml") == (2, "", "error: nowhere.yaml: there is no such file\n")


def test_a_file_that_cannot_be_opened_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovikit.cli.build_app", lambda: lambda args: (tmp_path / args[0]).read_text())
    (tmp_path / "folder").mkdir()
    assert exits(capsys, "folder") == (2, "", f"error: {tmp_path / 'folder'}: Is a directory\n")


def test_recipe_errors_name_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE.replace("height_px: 32", "height_px: tall"))
    code, out, err = exits(capsys, "recipe", "check", "r.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("error: 3 errors\n  r.yaml:1: model: is missing\n  r.yaml:1: sampling: is missing\n")
    assert "  r.yaml:3: clip.height_px: should be a valid integer, not 'tall'\n" in err


def test_plugins_are_listed_as_lines_for_other_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = exits(capsys, "plugins")
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0
    assert rows[0] == ["kind", "name", "summary", "distribution", "version"]
    assert ["attention", "sdpa"] in [row[:2] for row in rows]
    assert all(len(row) == 5 for row in rows)


def test_show_tells_types_defaults_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = exits(capsys, "plugins", "show", "guidance/cfg")
    assert code == 0
    assert "skip_layers\tlist of int >= 0\t[]\t" in out
    assert out.endswith("In a recipe: {type: cfg}\n")


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("guidance/cgf", "error: there is no guidance named 'cgf'; there are: "),
        ("guide/cfg", "error: there is no kind 'guide'; there are: attention, backbone, "),
    ],
)
def test_show_says_what_exists(capsys: pytest.CaptureFixture[str], component: str, message: str) -> None:
    code, _, err = exits(capsys, "plugins", "show", component)
    assert code == 2
    assert err.startswith(message)
    assert "Did you mean" in err


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = exits(capsys, "recipe", "schema")
    assert code == 0
    assert "fusion-slot" in json.loads(out)["$defs"]
    assert "evaluator-slot" in json.loads(exits(capsys, "recipe", "schema", "--suite")[1])["$defs"]


def commands(group: typer.main.TyperGroup, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:  # type: ignore[name-defined]
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += commands(command, (*above, name)) if hasattr(command, "commands") else [(*above, name)]
    return found


def test_every_command_has_help_with_an_example() -> None:
    app = build_app()
    for command in commands(typer.main.get_command(app)):  # type: ignore[arg-type]
        result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0, command
        assert f"ovikit {' '.join(command)}" in result.output, f"{command} has no example"


def test_ctrl_c_ends_a_command_with_one_line(tmp_path: Path) -> None:
    plugin = """
    from ovikit.kernel.hookspecs import hookimpl

    @hookimpl
    def ovikit_register_commands(cli):
        @cli.command("wait")
        def wait() -> None:
            import time
            print("waiting", flush=True)
            time.sleep(60)
    """
    (tmp_path / "waiting.py").write_text(textwrap.dedent(plugin))
    info = tmp_path / "waiting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: waiting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ovikit]\nwaiting = waiting\n")
    started = subprocess.Popen(
        [sys.executable, "-c", "from ovikit.cli import main; main()", "wait"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OVIKIT_PLUGINS": "waiting"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "waiting\n"
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (130, "interrupted\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert exits(capsys, "--version") == (0, f"ovikit {version('ovikit')}\n", "")
