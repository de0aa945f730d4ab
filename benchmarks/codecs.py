"""Times the video codec and the text encoder at full size, with random weights, on the device at hand.

    PYTHONPATH=.:plugins python benchmarks/codecs.py --out runs/codecs
    PYTHONPATH=.:plugins python benchmarks/codecs.py --quick               # tiny, on a CPU, in seconds

Needs the extra ``ovi`` (diffusers, transformers). A row that fails costs that row, and says why.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.files import atomic_path
from ovikit.types import ClipSpec
from ovikit_ovi.text.encoder import Umt5Shape, embed, empty_encoder
from ovikit_ovi.video.codec import Limits, WanVae
from ovikit_ovi.video.component import LATENT_MEAN, LATENT_STD, TIME_HALVED, WIDTH_FACTORS
from ovikit_ovi.video.weights import Architecture, VideoWeights, empty_vae


@dataclass(frozen=True)
class Row:
    """What is measured: ``decode``, ``first frame`` (encoding one) or ``text`` (512 tokens)."""

    what: str
    pixels: tuple[int, int] = (0, 0)
    frames: int = 0
    dtype: str = "bfloat16"
    decode_gb: float | None = None


@dataclass
class Result:
    row: Row
    seconds: float = 0.0
    peak_gib: float = 0.0
    weights_gib: float = 0.0
    failed: str = ""


SMALL, LARGE = (704, 704), (960, 960)
ROWS = [
    Row("text"),
    Row("first frame", SMALL, 1),
    Row("decode", SMALL, 121),
    Row("decode", SMALL, 121, "float32"),
    Row("decode", SMALL, 121, decode_gb=4.0),
    Row("decode", LARGE, 241),
    Row("decode", LARGE, 241, decode_gb=8.0),
]
QUICK = [
    Row("text", dtype="float32"),
    Row("decode", (64, 64), 5, "float32"),
    Row("first frame", (64, 64), 1, "float32"),
]
SIZES = Architecture(160, 256, WIDTH_FACTORS, TIME_HALVED, 2, LATENT_MEAN, LATENT_STD)
QUICK_SIZES = Architecture(8, 8, WIDTH_FACTORS, TIME_HALVED, 1, LATENT_MEAN[:4], LATENT_STD[:4])
UMT5 = Umt5Shape(24, 4096, 10240, 64, 64, 256384, 32)
QUICK_UMT5 = Umt5Shape(2, 32, 64, 4, 8, 600, 32)


@torch.no_grad()
def drawn(shapes: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Random weights of about the size that training leaves; scales of norms near one."""
    generator = torch.Generator(device).manual_seed(0)
    found = {}
    for name, like in shapes.items():
        value = torch.empty(like.shape, device=device, dtype=like.dtype)
        wide = like.ndim > 1 and like[0].numel() > 1
        found[name] = value.normal_(std=like[0].numel() ** -0.5 if wide else 0.02, generator=generator)
        if not wide and ("gamma" in name or "norm" in name):
            found[name].add_(1)
    return found


def video_codec(row: Row, sizes: Architecture, device: torch.device) -> WanVae:
    dtype = getattr(torch, row.dtype)
    weights = VideoWeights(Assets(None), "random", sizes, dtype)
    weights.put(drawn(empty_vae(sizes, dtype).state_dict(), device), "random weights")
    weights.load(device)
    bound = None if row.decode_gb is None else row.decode_gb * 1e9
    clip = ClipSpec(row.frames / 24, *row.pixels, 24.0, 16000)
    return WanVae(clip, weights, Limits(activation_bytes=bound))


def work(row: Row, quick: bool, device: torch.device) -> tuple[Callable[[], Tensor], int]:
    """What to time, and the bytes of its weights."""
    if row.what == "text":
        dtype = getattr(torch, row.dtype)
        encoder = empty_encoder(QUICK_UMT5 if quick else UMT5, dtype)
        state = drawn(dict(encoder.named_parameters()), device)
        encoder.load_state_dict(state, assign=True, strict=False)
        encoder.encoder.embed_tokens = encoder.shared
        ids = list(range(1, 513))
        return lambda: embed(encoder, ids), sum(p.numel() * p.element_size() for p in state.values())
    codec = video_codec(row, QUICK_SIZES if quick else SIZES, device)
    if row.what == "decode":
        latents = torch.randn(1, *codec.shape(), device=device)
        return lambda: codec.decode(latents), codec.weight_bytes()
    pixels = torch.rand(1, 1, *row.pixels, 3) * 2 - 1
    return lambda: codec.encode(pixels), codec.weight_bytes()


def measure(row: Row, quick: bool, device: torch.device, repeat: int) -> Result:
    function, weights = work(row, quick, device)
    on_cuda, times = device.type == "cuda", []
    with torch.no_grad():
        for i in range(repeat + 1):
            if on_cuda:
                torch.cuda.reset_peak_memory_stats()
            begun = time.perf_counter()
            out = function()
            if on_cuda:
                torch.cuda.synchronize()
            if i:
                times.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_cuda else 0.0
    failed = "" if bool(out.isfinite().all()) else "not finite"
    return Result(row, statistics.median(times), peak, weights / 2**30, failed)


def markdown(results: list[Result], about: str) -> str:
    lines = [
        about,
        "",
        "| work | format | bound, GB | seconds | peak GiB | of these weights |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        row = result.row
        form = "512 tokens" if row.what == "text" else f"{row.pixels[0]} x {row.pixels[1]} x {row.frames}"
        bound = "" if row.decode_gb is None else f"{row.decode_gb:g}"
        numbers = (f"{result.seconds:.3g}", f"{result.peak_gib:.1f}", f"{result.weights_gib:.2f}")
        cells = (
            f"{row.what}, {form}",
            row.dtype,
            bound,
            *((f"failed: {result.failed}", "", "") if result.failed else numbers),
        )
        lines.append("| " + " | ".join(cells).replace("\n", " ") + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny, in seconds, also on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=2, help="times, after one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after this time")
    parser.add_argument("--only", action="append", help="rows of this work; repeatable")
    parser.add_argument("--out", type=Path, help="OUT.json and OUT.md")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.quick else arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    about, begun, results = f"{name}, torch {torch.__version__}", time.perf_counter(), []
    for row in QUICK if arguments.quick else ROWS:
        if arguments.only and row.what not in arguments.only:
            continue
        if time.perf_counter() - begun > arguments.seconds:
            sys.stderr.write(f"out of time before {row}\n")
            break
        try:
            results.append(measure(row, arguments.quick, device, arguments.repeat))
        except Exception as error:  # a row that fails costs that row, and says why
            results.append(Result(row, failed=f"{type(error).__name__}: {error}"[:300]))
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if arguments.out is not None:
            with atomic_path(arguments.out.with_suffix(".json")) as path:
                path.write_text(json.dumps({"about": about, "rows": [asdict(one) for one in results]}, indent=1) + "\n")
            with atomic_path(arguments.out.with_suffix(".md")) as path:
                path.write_text(markdown(results, about))
    Console(width=150).print(markdown(results, about), markup=False, highlight=False)


if __name__ == "__main__":
    main()
