"""Where weight files are found, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ovikit.checkpoints.assets import MANIFEST, MANIFEST_FORMAT, Assets
from ovikit.errors import UserError
from ovikit.files import sha256_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    (folder / "Part").mkdir(parents=True)
    (folder / "Part" / "one.bin").write_bytes(b"one")
    (folder / "own.bin").write_bytes(b"own")
    return folder


def write_manifest(root: Path, **files: str) -> None:
    told = {"format": MANIFEST_FORMAT, "version": 1, "files": {name: {"path": path} for name, path in files.items()}}
    (root / MANIFEST).write_text(json.dumps(told))


def test_a_name_is_a_place_in_the_folder(root: Path) -> None:
    assert Assets(root).path("Part/one.bin") == root / "Part" / "one.bin"


def test_a_converted_folder_says_what_it_calls_a_file(root: Path) -> None:
    write_manifest(root, official="own.bin")
    assert Assets(root).path("official").read_bytes() == b"own"


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "Part/../../secret"])
def test_no_name_leads_out_of_the_folder(root: Path, name: str) -> None:
    (root.parent / "secret").write_text("x")
    with pytest.raises(UserError, match="outside"):
        Assets(root).path(name)
    write_manifest(root, official=name)
    with pytest.raises(UserError, match="outside"):
        Assets(root).path("official")


def test_a_missing_file_is_named_with_what_tells_more(root: Path) -> None:
    with pytest.raises(UserError, match=r"no Part/two.bin\n.*ovikit weights check"):
        Assets(root).path("Part/two.bin")


def test_without_a_folder_the_option_is_named() -> None:
    with pytest.raises(UserError, match="--weights DIR"):
        Assets().path("Part/one.bin")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other", "files": {}}', '{"files": {"a": 1}}'])
def test_a_damaged_manifest_is_refused(root: Path, text: str) -> None:
    (root / MANIFEST).write_text(text)
    with pytest.raises(UserError, match="manifest"):
        Assets(root)


def test_a_digest_is_computed_once_and_again_when_the_file_changes(root: Path, tmp_path: Path) -> None:
    path, hashed = root / "own.bin", []
    for content, calls in ((b"own", 1), (b"own", 1), (b"own", 1), (b"new!", 2)):
        if path.read_bytes() != content:
            path.write_bytes(content)
            os.utime(path, ns=(1, 1))
        assets = Assets(root, cache=tmp_path / "cache")  # as in the next run
        assets.hashing = lambda path, done, total: hashed.append((path.name, done, total))
        assert assets.digest("own.bin") == hashlib.sha256(content).hexdigest()
        assert len(hashed) == calls
    assert hashed == [("own.bin", 3, 3), ("own.bin", 4, 4)]


def test_the_digest_of_a_folder_changes_with_names_and_contents(root: Path) -> None:
    digests = [Assets(root).digest("Part")]
    (root / "Part" / "one.bin").rename(root / "Part" / "two.bin")
    digests.append(Assets(root).digest("Part"))
    (root / "Part" / "two.bin").write_bytes(b"two")
    digests.append(Assets(root).digest("Part"))
    assert len(set(digests)) == 3


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    assert Assets(root, cache=tmp_path / "cache").digest("own.bin") == hashlib.sha256(b"own").hexdigest()


def test_hashing_in_pieces_gives_the_same_digest_and_ends_with_all_bytes(tmp_path: Path) -> None:
    path, told = tmp_path / "large", []
    path.write_bytes(os.urandom(1024) * (40 * 1024))
    assert sha256_of(path, lambda done, total: told.append((done, total))) == sha256_of(path)
    assert len(told) == 3
    assert told[-1] == (path.stat().st_size, path.stat().st_size)
