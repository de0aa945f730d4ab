"""One process of the several that tests/conformance/test_parallel_ovi.py starts: ``python parallel_worker.py OUT``.

It makes every case of parallel_cases alone and together with the others, with the annotations of shapes enforced.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jaxtyping

if __name__ == "__main__":
    jaxtyping.install_import_hook(("ovikit.runtime.parallel", "ovikit.networks.joint"), "beartype.beartype")
    from parallel_cases import run_all

    found = run_all()
    (Path(sys.argv[1]) / f"{found['rank']}.json").write_text(json.dumps(found))
