"""Files appear whole under their name or not at all, and what stands in the way is told by name."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ovikit.errors import UserError
from ovikit.files import alone_in, atomic_path, atomic_write_text, writing


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a\.txt: it cannot be written: "):
        atomic_write_text(tmp_path / "file" / "a.txt", "x")


def test_a_folder_under_the_name_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match=r"a\.txt: it cannot be written: Is a directory"):
        atomic_write_text(tmp_path / "a.txt", "x")
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_whatever_a_library_says_of_a_full_disk_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovikit.files._full", lambda folder: folder == tmp_path)
    with pytest.raises(UserError, match=r"a\.bin: it cannot be written: the disk is full"), writing(tmp_path / "a.bin"):
        raise RuntimeError("unexpected pos 576 vs 534")


def test_a_folder_is_worked_in_by_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ovikit.errors import UserError; from ovikit.files import alone_in\n"
        "try:\n    with alone_in(Path(sys.argv[1])): print('in')\nexcept UserError as error: print(error.what)"
    )

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout

    with alone_in(tmp_path):
        assert other() == "another process is at work in this folder\n"
    assert other() == "in\n"


def test_an_error_is_the_same_in_another_process() -> None:
    from ovikit.data.shards import DamagedClipError
    from ovikit.training.watch import NonFiniteError

    damaged = DamagedClipError("clip a is damaged", "0.tar", "prepare it again")
    damaged.index = 3
    for error in (damaged, NonFiniteError(7, "the loss", ("a", "b"))):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), vars(again)) == (str(error), vars(error))


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_limit_on_what_a_library_may_write_is_told_as_one(tmp_path: Path, library: str) -> None:
    """As a quota does, it stops a write on a disk that has room."""
    code = (
        "import resource, sys, torch; from safetensors.torch import save_file; from ovikit.files import writing\n"
        "from ovikit.errors import UserError; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "save = torch.save if sys.argv[2] == 'torch' else save_file\n"
        "try:\n    with writing(sys.argv[1]): save({'a': torch.zeros(100_000)}, sys.argv[1])\n"
        "except UserError as error: print(error)"
    )
    path = str(tmp_path / "a.bin")
    done = subprocess.run([sys.executable, "-c", code, path, library], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: it cannot be written: ")
    assert done.stdout.count("\n") == 1
