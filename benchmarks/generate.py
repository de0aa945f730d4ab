"""Times guided steps of the released architecture, with random weights, on the device at hand.

    PYTHONPATH=.:plugins python benchmarks/generate.py --out runs/speed      # rows that suit the device
    PYTHONPATH=.:plugins python benchmarks/generate.py --row 704 --row 704,compile=on,attention=sdpa:cudnn --profile
    PYTHONPATH=.:plugins python benchmarks/generate.py --quick               # tiny, on a CPU, in seconds

A step is what a sampler asks of the network: a prompt pass and a negative pass that leaves one layer out. FLOPs are
counted by PyTorch on the same step with tensors that have no storage, products and attention only. Weights and inputs
are random numbers: products of zeros run faster than real ones. OUT.json and OUT.md are written anew after every row.
A row's fields, with their defaults, are those of ``Row``; the first word of --row is its size. Rows with quantization
need torchao, those with another plan than full the packages that recipes need; nothing else needs more than torch.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from released_size import CLIPS, OVI, SIZES, draw_weights, flops_of_step, guided_step, on_meta, tokens_of
from rich.console import Console
from rich.table import Table
from torch import nn

from ovikit.checkpoints.load import place_all
from ovikit.files import atomic_path
from ovikit.networks.attention import Described, ScaledDotProduct
from ovikit.networks.flash import flash_attention, installed
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import Attend
from ovikit.runtime.compile import compile_layers
from ovikit.runtime.quantize import covers, quantiser

STEPS = 50  # of a clip, as released


@dataclass(frozen=True)
class Row:
    """One measurement, by what it varies."""

    size: str = "704"
    plan: str = "full"
    guidance: str = "in-turn"
    attention: str = "sdpa:auto"
    compile: str = "off"
    quantization: str = "none"
    dtype: str = "bfloat16"
    policy: str = "clean"


@dataclass
class Result:
    """What a row gave; ``failed`` where it did not run."""

    row: Row
    seconds_per_step: float = 0.0
    spread: float = 0.0
    first_step_s: float = 0.0
    tflop_per_step: float = 0.0
    tflop_per_s: float = 0.0
    share_of_peak: float = 0.0
    tokens_per_s: float = 0.0
    peak_gib: float = 0.0
    weights_and_text_gib: float = 0.0
    attends: str = ""
    failed: str = ""
    notes: list[str] = field(default_factory=list)


def default_rows(device: torch.device, flash: bool) -> list[Row]:
    """What is worth knowing, most telling first."""
    if device.type != "cuda":
        tiny = Row("tiny", dtype="float32")
        varied = {"guidance": "batched", "attention": "sdpa:math", "plan": "stream-layers", "quantization": "int8"}
        return [tiny, *(replace(tiny, **{name: value}) for name, value in varied.items())]
    base = Row(compile="on")
    rows = [base, Row(), replace(base, policy="official"), replace(base, attention="sdpa:flash")]
    if flash:
        rows.append(replace(base, attention="flash-attn:auto"))
    rows += [replace(base, guidance="batched"), replace(base, quantization="fp8"), replace(base, quantization="int8")]
    rows += [replace(base, plan="stream-layers"), replace(base, size="960-10s"), replace(base, size="960")]
    return [*rows, replace(base, size="960-10s", quantization="fp8")]


def read_row(text: str, device: torch.device) -> Row:
    """The row of ``size,field=value,...``."""
    size, *rest = text.split(",")
    given = dict(one.split("=", 1) for one in rest)
    known = {one.name for one in fields(Row)}
    if size not in SIZES or not given.keys() <= known:
        sys.exit(f"--row {text}: the size is one of {', '.join(SIZES)}, and fields are {', '.join(sorted(known))}")
    start = Row() if device.type == "cuda" else Row(dtype="float32")
    return replace(start, size=size, **given)


def attend_of(name: str) -> Attend:
    """The ``attend`` of ``component:option``."""
    component, _, option = name.partition(":")
    if component == "sdpa":
        return ScaledDotProduct(option or "auto")  # type: ignore[arg-type]
    if component == "flash-attn":
        return flash_attention(option or "auto")  # type: ignore[arg-type]
    raise ValueError(f"no attention {name}")


def timed(function: Callable, device: torch.device, repeat: int) -> list[float]:
    """Seconds of each call."""
    times = []
    for _ in range(repeat):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            begun = time.perf_counter()
            function()
            times.append(time.perf_counter() - begun)
    return times


def measured_peaks(device: torch.device, dtype: torch.dtype, quick: bool) -> dict[str, float]:
    """TFLOP/s of matrix products: a large square one, and the model's own at 704 x 704 x 121."""
    n, w, f = tokens_of(SIZES["704"]) - SIZES["704"].audio, OVI.width, OVI.feed_forward_width
    shapes = [(512, 512, 512)] if quick else [(8192, 8192, 8192), (n, w, w), (n, w, f), (n, f, w)]
    found = {}
    for rows, inner, columns in shapes:
        a, b = torch.randn(rows, inner, device=device), torch.randn(columns, inner, device=device)
        a, b = a.to(dtype), b.to(dtype)
        timed(lambda a=a, b=b: nn.functional.linear(a, b), device, 5)
        seconds = statistics.median(timed(lambda a=a, b=b: nn.functional.linear(a, b), device, 20))
        found[f"{rows} x {inner} x {columns}"] = 2 * rows * inner * columns / seconds / 1e12
    return found


def settle(model: JointModel, row: Row, device: torch.device, stack: ExitStack) -> None:
    """Gives the model random weights, where and in the format that the row says, and compiles it if the row does."""
    dtype = getattr(torch, row.dtype)
    draw_weights(model, device)
    if row.plan == "full":
        quantise = quantiser(row.quantization, dtype, device)  # type: ignore[arg-type]
        if quantise is not None:
            place_all(model, lambda name, x, scale=None: quantise(x) if covers(name, x.shape) else x)
        if row.compile == "on":
            compile_layers(model)
        return
    from ovikit.runtime.placement import Placement  # these read recipes, and so need packages that the rest does not
    from ovikit.runtime.plan import Chosen

    chosen = Chosen(row.plan, compile=row.compile == "on", quantization=row.quantization, dtype=dtype)  # type: ignore[arg-type]
    placement = Placement(chosen, device)
    place_all(model, lambda name, x, scale=None: placement.place(name, x).cpu())
    stack.enter_context(placement.network(model))


def measure(row: Row, device: torch.device, peak: float, repeat: int) -> Result:
    """The row's result."""
    size, dtype = SIZES[row.size], getattr(torch, row.dtype)
    attend = attend_of(row.attention)
    result = Result(row, attends=attend.describe(device, dtype) if isinstance(attend, Described) else "")
    model = on_meta(size, attend, Precision(dtype, row.policy))  # type: ignore[arg-type]
    with torch.no_grad(), ExitStack() as stack:
        settle(model, row, device, stack)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        step = guided_step(model, size, device, dtype, row.guidance == "batched")
        result.first_step_s = timed(step, device, 1)[0]
        timed(step, device, 1)
        if device.type == "cuda":
            result.weights_and_text_gib = torch.cuda.memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        times = timed(step, device, repeat)
        if device.type == "cuda":
            result.peak_gib = torch.cuda.max_memory_allocated() / 2**30
        if not all(bool(value.isfinite().all()) for value in step().values()):
            result.notes.append("not finite")
        if row.compile == "on" and not all("forward" in vars(layer) for layer in model.layers):
            result.notes.append("ran uncompiled")
    result.seconds_per_step = statistics.median(times)
    result.spread = (max(times) - min(times)) / result.seconds_per_step
    result.tflop_per_step = flops_of_step(size) / 1e12
    result.tflop_per_s = result.tflop_per_step / result.seconds_per_step
    result.share_of_peak = result.tflop_per_s / peak
    result.tokens_per_s = 2 * tokens_of(size) / result.seconds_per_step
    return result


def release(device: torch.device) -> None:
    """Frees what earlier rows left."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def profile_layer(row: Row, device: torch.device, rows: int = 25) -> str:
    """The kernels of one pair layer by time, eager and compiled."""
    dtype = getattr(torch, row.dtype)
    size = replace(SIZES[row.size], architecture=replace(SIZES[row.size].architecture, depth=1, skipped=0))
    model = on_meta(size, attend_of(row.attention), Precision(dtype, row.policy))  # type: ignore[arg-type]
    draw_weights(model, device)
    given: list[tuple[Any, ...]] = []
    model.layers[0].register_forward_pre_hook(lambda module, arguments: given.append(arguments))
    activity = torch.profiler.ProfilerActivity
    watched = [activity.CUDA, activity.CPU] if device.type == "cuda" else [activity.CPU]
    told = []
    with torch.no_grad():
        guided_step(model, size, device, dtype, batched=False)()
        model.layers[0]._forward_pre_hooks.clear()
        for name, layer in (("eager", model.layers[0]), ("compiled", torch.compile(model.layers[0], fullgraph=True))):
            timed(lambda layer=layer: layer(*given[0]), device, 3)
            seconds = statistics.median(timed(lambda layer=layer: layer(*given[0]), device, 10))
            with torch.profiler.profile(activities=watched) as profile:
                layer(*given[0])
            key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
            table = profile.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=70)
            told.append(f"{row.size}, one pair layer, {name}: {seconds * 1e3:.2f} ms\n{table}")
    return "\n\n".join(told)


def markdown(results: list[Result], about: dict[str, Any]) -> str:
    """The results as a table, with what they were measured on."""
    head = ["clip", "plan", "guidance", "attention", "compile", "weights", "policy", "s / step", "TFLOP/s", "of peak",
            "tokens/s", f"{STEPS} steps, s", "peak GiB"]  # fmt: skip
    lines = [
        f"{about['device']}, torch {about['torch']}. Matrix products, TFLOP/s: "
        + "; ".join(f"{name}: {value:.0f}" for name, value in about["products_tflop_per_s"].items()),
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for result in results:
        row = result.row
        weights = row.dtype if row.quantization == "none" else row.quantization
        cells = [CLIPS[row.size], row.plan, row.guidance, row.attention, row.compile, weights, row.policy]
        if result.failed:
            cells += [f"failed: {result.failed}"] + [""] * (len(head) - len(cells) - 1)
        elif result.notes:
            cells += [", ".join(result.notes)] + [""] * (len(head) - len(cells) - 1)
        else:
            cells += [
                f"{result.seconds_per_step:.4g}",
                f"{result.tflop_per_s:.4g}",
                f"{result.share_of_peak:.0%}",
                f"{result.tokens_per_s:.0f}",
                f"{STEPS * result.seconds_per_step:.3g}",
                f"{result.peak_gib:.1f}",
            ]
        lines.append("| " + " | ".join(cells).replace("\n", " ") + " |")
    return "\n".join(lines) + "\n"


def write(out: Path | None, results: list[Result], about: dict[str, Any]) -> None:
    if out is None:
        return
    rows = [{**asdict(result.row), **{k: v for k, v in asdict(result).items() if k != "row"}} for result in results]
    with atomic_path(out.with_suffix(".json")) as path:
        path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    with atomic_path(out.with_suffix(".md")) as path:
        path.write_text(markdown(results, about))


def show(results: list[Result], about: dict[str, Any]) -> None:
    lines = markdown(results, about).splitlines()
    table = Table(*(cell.strip() for cell in lines[2].strip("|").split("|")), title=lines[0])
    for line in lines[4:]:
        table.add_row(*(cell.strip() for cell in line.strip("|").split("|")))
    Console(width=190).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", help="size[,field=value...]; repeatable; default: a list of rows")
    parser.add_argument("--quick", action="store_true", help="tiny, in seconds, also on a CPU")
    parser.add_argument("--profile", action="store_true", help="also the kernels of one pair layer of the first row")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=5, help="steps timed per row, after two")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after this time")
    parser.add_argument("--out", type=Path, help="OUT.json and OUT.md")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.quick else arguments.device)
    begun, console = time.perf_counter(), Console(width=190)
    rows = [read_row(one, device) for one in arguments.row or ()] or default_rows(device, flash=bool(installed()))
    products = measured_peaks(device, getattr(torch, rows[0].dtype), quick=device.type != "cuda")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    about = {"device": name, "torch": torch.__version__, "products_tflop_per_s": products}
    results: list[Result] = []
    for row in rows:
        if time.perf_counter() - begun > arguments.seconds:
            console.print(f"out of time before {row}")
            break
        try:
            results.append(measure(row, device, next(iter(products.values())), arguments.repeat))
        except Exception as error:  # a row that fails costs that row, and says why
            results.append(Result(row, failed=f"{type(error).__name__}: {error}"[:300]))
        release(device)
        last = results[-1]
        told = last.failed or f"{last.seconds_per_step:.4f} s a step, {last.peak_gib:.1f} GiB; {last.attends}"
        console.print(f"{time.perf_counter() - begun:6.0f} s  {row}: {told}", markup=False)
        write(arguments.out, results, about)
    show(results, about)
    if arguments.profile:
        text = profile_layer(rows[0], device)
        if arguments.out is not None:
            with atomic_path(arguments.out.with_suffix(".profile.txt")) as path:
                path.write_text(text)
        console.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main()
