"""A study's report as files: votes, numbers, and a page with the figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovikit.extras import require
from ovikit.files import atomic_write_text
from ovikit.study.analysis import OUTCOMES, Rate, Report
from ovikit.study.records import Vote
from ovikit.study.votes import write_votes

TEMPLATE = "report.html.j2"
WORDS = {"win": "wins", "tie": "ties", "both_bad": "both bad", "loss": "losses"}


def show_rate(rate: Rate) -> str:
    """A share in percent."""
    return "–" if rate.value is None else f"{100 * rate.value:.1f} %"


def show_range(rate: Rate) -> str:
    """Its interval."""
    return "" if rate.interval is None else " to ".join(f"{100 * bound:.1f}" for bound in rate.interval)


def write_report(report: Report, votes: Sequence[Vote], folder: Path) -> list[Path]:
    """Writes ``votes.jsonl``, ``report.json`` and ``report.html``; their paths."""
    jinja2 = require("jinja2", extra="report")
    files = [folder / name for name in ("votes.jsonl", "report.json", "report.html")]
    write_votes(list(votes), files[0])
    atomic_write_text(files[1], report.model_dump_json(indent=1) + "\n")
    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("ovikit.study", "."), jinja2.PackageLoader("ovikit.evaluation", ".")]
    )
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"rate": show_rate, "range": show_range}
    html = environment.get_template(TEMPLATE).render(report=report, outcomes=OUTCOMES, words=WORDS)
    atomic_write_text(files[2], html)
    return files
