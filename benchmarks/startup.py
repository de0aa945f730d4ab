"""Times the commands that should answer at once, against importing torch in the same run.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "ovikit plugins": "from ovikit.cli import main; main(['plugins'])",
    "ovikit recipe check": "from ovikit.cli import main; main(['recipe', 'check', 'recipes/tiny/ovi.yaml'])",
    "import torch": "import torch",
}


def seconds(code: str, repeat: int = 5) -> float:
    """Median time of a fresh interpreter that runs the code."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    times = {name: seconds(code) for name, code in COMMANDS.items()}
    for name, took in times.items():
        share = took / times["import torch"]
        sys.stdout.write(f"{name:22} {took:6.2f} s   {share:5.2f} of importing torch\n")


if __name__ == "__main__":
    main()
