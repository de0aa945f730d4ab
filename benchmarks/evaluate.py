"""What measuring clips costs: clips a minute to decode, of each evaluator, and of a whole suite.

The suite is run by one process without a cache, by several, and again from the cache; ratios are to the first.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --suite evals/suites/signals.yaml --clips DIR --processes 8
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ovikit.commands.tables import print_table
from ovikit.evaluation.features import CACHE, Measure
from ovikit.evaluation.runner import build_measures
from ovikit.evaluation.selftest import made_clips
from ovikit.files import atomic_write_json
from ovikit.generate.media import View, read_views, write_clip
from ovikit.recipe.load import load_suite
from ovikit.types import Clip

ROOT = Path(__file__).parents[1]
WHOLE = "suite, one process, no cache"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=ROOT / "evals/suites/signals.yaml")
    parser.add_argument("--clips", type=Path, help="folder of NAME.mp4; default: clips of 4 s at 512 x 512, made here")
    parser.add_argument("--count", type=int, default=12, help="how many of them")
    parser.add_argument("--side", type=int, default=512, help="of those that are made, in pixels")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="writes the numbers to FILE.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "clips"
        folder.mkdir()
        if chosen.clips is None:
            make(folder, chosen.count, chosen.side)
        else:
            for path in sorted(chosen.clips.glob("[!.]*.mp4"))[: chosen.count]:
                shutil.copy(path, folder)
        rows = measure(chosen.suite, folder, chosen.processes)
    base = next(row["clips_per_minute"] for row in rows if row["what"] == WHOLE)
    table = [
        (row["what"], f"{row['clips_per_minute']:,.0f}", f"{row['clips_per_minute'] / base:.2f}", row["note"])
        for row in rows
    ]
    print_table(Console(), ("what", "clips/min", "of one process", ""), table)
    if chosen.out is not None:
        atomic_write_json(chosen.out, {"rows": rows})


def make(folder: Path, count: int, side: int) -> None:
    """Files of clips with events, no two alike."""
    clips = made_clips(count, side)
    for clip in clips:
        write_clip(folder / f"{clip.name}.mp4", clip)


def measure(suite: Path, folder: Path, processes: int) -> list[dict[str, Any]]:
    """A row for each thing that is timed."""
    files = sorted(folder.glob("*.mp4"))
    measures = build_measures(load_suite(suite), None)
    able = [one for one in measures if one.lacking is None]
    views = tuple({one.view or View() for one in able})
    rows = [row("decoding, all forms that are asked for", files, lambda path: read_views(path, views))]
    clips = {path: read_views(path, views) for path in files}
    for one in able:
        rows.append(
            row(one.name, files, lambda path, one=one: one.evaluator.features(seen(one, clips[path])), "decoded")
        )
    rows += [
        {"what": one.name, "clips_per_minute": 0.0, "note": one.lacking} for one in measures if one.lacking is not None
    ]
    rows.append(whole(WHOLE, suite, folder, files, 1, fresh=True))
    rows.append(whole("suite, one process, again", suite, folder, files, 1, fresh=False))
    if processes > 1:
        rows.append(whole(f"suite, {processes} processes, no cache", suite, folder, files, processes, fresh=True))
    return rows


def seen(one: Measure, clips: dict[View, Clip]) -> Clip:
    return clips[one.view or View()]


def row(what: str, files: Sequence[Path], work: Callable[[Path], object], note: str = "") -> dict[str, Any]:
    """Clips a minute, the first left out: it pays for what is read once."""
    work(files[0])
    began = time.perf_counter()
    for path in files:
        work(path)
    return {"what": what, "clips_per_minute": 60 * len(files) / (time.perf_counter() - began), "note": note}


def whole(what: str, suite: Path, folder: Path, files: Sequence[Path], processes: int, fresh: bool) -> dict[str, Any]:
    """The command, start included: what a user waits for."""
    if fresh:
        shutil.rmtree(folder / CACHE, ignore_errors=True)
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    began = time.perf_counter()
    done = subprocess.run(
        [*start, "-m", "ovikit", "eval", str(suite), "--clips", str(folder)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    scored = json.loads((folder.parent / "results.json").read_text())["clips"]
    return {"what": what, "clips_per_minute": 60 * scored / seconds, "note": f"{seconds:.1f} s with the start"}


if __name__ == "__main__":
    main()
