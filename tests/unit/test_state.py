"""Reading weights files: every kind that people have, and every way in which they are spoilt."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovikit.checkpoints.state import TensorInfo, read_header, read_state
from ovikit.errors import UserError


def _tensors(kind: str = "zip") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a.weight": torch.randn(5, 7, generator=generator),
        "a.bias": torch.randn(5, generator=generator).to(torch.bfloat16),
        "gain": torch.tensor(0.5, dtype=torch.float64),
        "cast": torch.randn(4, 4, generator=generator).to(torch.float8_e4m3fn),
    }
    if kind in ("legacy", "bare pickle"):  # older than float8
        del tensors["cast"]
    return tensors


def _write(path: Path, kind: str, content: object) -> Path:
    if kind == "safetensors":
        save_file(content, path, {"b": "2", "a": "1"})
    elif kind == "shards":
        names = list(content)
        for i, part in enumerate((names[:2], names[2:])):
            save_file({name: content[name] for name in part}, path.parent / f"shard-{i}.safetensors")
        where = {name: f"shard-{i // 2}.safetensors" for i, name in enumerate(names)}
        path = path.parent / "x.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


KINDS = ("safetensors", "shards", "zip", "legacy")


def _same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype
        and found[name].shape == wanted[name].shape
        and found[name].contiguous().view(-1).view(torch.uint8).equal(wanted[name].view(-1).view(torch.uint8))
        for name in wanted
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x.pth", "x.pt"])
def test_every_kind_is_read_to_the_bit_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    path = _write(tmp_path / name, kind, wanted := _tensors(kind))
    tensors, metadata = read_state(path)
    assert _same(tensors, wanted)
    assert metadata == ({"a": "1", "b": "2"} if kind == "safetensors" else {})
    assert list(metadata) == sorted(metadata)
    header = read_header(path)
    assert header == {key: TensorInfo(tuple(value.shape), value.dtype) for key, value in wanted.items()}
    assert header["a.bias"].bytes == 10
    assert header["gain"].bytes == 8


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_nested_state_dict(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path / "g.pt", kind, {"generator": OrderedDict(_tensors(kind)), "epoch": 3})
    assert _same(read_state(path, "generator")[0], _tensors(kind))
    assert read_header(path, "generator").keys() == _tensors(kind).keys()
    with pytest.raises(UserError, match=r"nothing under 'encoder'(.|\n)*generator, epoch"):
        read_header(path, "encoder")
    with pytest.raises(UserError, match="not tensors are generator, epoch"):
        read_state(path)


def test_safetensors_never_nest(tmp_path: Path) -> None:
    path = _write(tmp_path / "g.safetensors", "safetensors", _tensors())
    assert _same(read_state(path, "generator")[0], _tensors())


def test_a_header_reads_no_numbers(tmp_path: Path) -> None:
    """A sparse file whose tensors are never touched: 4 GB that read_header does not read, nor read_state map."""
    big = torch.empty(1).expand(1)
    small = _write(tmp_path / "s.pth", "zip", {"w": big.clone()})
    assert read_header(small)["w"].shape == (1,)
    sparse = tmp_path / "big.safetensors"
    numel = 2**30
    header = json.dumps({"w": {"dtype": "F32", "shape": [numel], "data_offsets": [0, 4 * numel]}}).encode()
    with sparse.open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        handle.truncate(8 + len(header) + 4 * numel)
    assert read_header(sparse) == {"w": TensorInfo((numel,), torch.float32)}
    assert read_state(sparse)[0]["w"][-1] == 0


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, -1, -10])
@pytest.mark.parametrize("read", [read_header, read_state])
def test_a_truncated_file_is_noticed(tmp_path: Path, kind: str, kept: float, read) -> None:
    path = _write(tmp_path / "x.pth", kind, _tensors(kind))
    size = path.stat().st_size
    os.truncate(path, size + kept if kept < 0 else int(kept * size))
    with pytest.raises(UserError, match=r"truncated|not a whole"):
        read(path)


class _Evil:
    """Pickled, this asks for a function to be called when it is opened."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.ran}",)


@pytest.mark.parametrize("written", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("read", [read_header, read_state])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, written: str, read) -> None:
    ran, path = tmp_path / "ran", tmp_path / "x.pth"
    content = {**_tensors(written), "evil": _Evil(ran)}
    if written == "bare pickle":
        path.write_bytes(pickle.dumps(_Evil(ran), protocol=2))
    else:
        _write(path, written, content)
    with pytest.raises(UserError, match=r"wants to run code when it is opened \(\w+\.system\), and was refused"):
        read(path)
    assert not ran.exists()


def test_a_pickle_that_pytorch_did_not_write_is_refused(tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(_Evil(ran), protocol=5))
    with pytest.raises(UserError, match="refused: it is damaged, or a pickle with more in it"):
        read_header(path)
    assert not ran.exists()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that cannot be read")
@pytest.mark.parametrize("read", [read_header, read_state])
def test_a_file_that_the_system_does_not_read_is_named(read) -> None:
    with pytest.raises(UserError, match="/proc/self/mem: this file cannot be read: "):
        read("/proc/self/mem")


def test_a_pickle_under_the_name_of_a_safetensors_file(tmp_path: Path) -> None:
    torch.save(_tensors(), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"rename it to end in \.pth"):
        read_header(tmp_path / "x.safetensors")


def test_a_class_of_somebody_is_refused(tmp_path: Path) -> None:
    """A whole pickled module, as people save by mistake."""
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(UserError, match="wants to run code"):
        read_state(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "this file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 23\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"\n <html><body>404</body></html>", "a web page"),
        (b'{"error": "Repository not found"}', "a JSON text"),
        (b"Entry not found", "not a weights file"),
        (bytes(4096), "never filled"),
        (b"\x80\x02]q\x00.", "truncated or damaged"),
        (b"PK\x03\x04rubbish", "truncated"),
        ((12).to_bytes(8, "little") + b'{"a": 17}   ', "not a whole safetensors file"),
    ],
)
@pytest.mark.parametrize("read", [read_header, read_state])
def test_what_is_found_in_the_place_of_weights(tmp_path: Path, content: bytes, told: str, read) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        read(path)
    assert caught.value.where == str(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights file"):
        read_header(tmp_path / "none.pth")
    with pytest.raises(UserError, match="this is a folder"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"a": torch.zeros(2), "b": 3}, "not tensors are b"),
        ({1: torch.zeros(2)}, "not tensors are 1"),
        ([torch.zeros(2)], "it holds a list"),
        ({}, "it holds nothing"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=told):
        read_state(tmp_path / "x.pt")


def test_shards_that_do_not_go_together(tmp_path: Path) -> None:
    index = _write(tmp_path / "x", "shards", _tensors())
    (tmp_path / "shard-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"shard-1.safetensors: no such"):
        read_header(index)
    save_file({"gain": torch.zeros(())}, tmp_path / "shard-1.safetensors")
    with pytest.raises(UserError, match="not in this shard: cast"):
        read_state(index)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match="beside its index"):
        read_state(index)
    index.write_text("{}")
    with pytest.raises(UserError, match="no 'weight_map'"):
        read_state(index)
