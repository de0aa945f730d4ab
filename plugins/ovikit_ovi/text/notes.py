"""What the linter has to say of a prompt, and where in the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len

Severity = Literal["error", "warning", "rewritten", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "rewritten", "info")
_ELLIPSIS = "..."


@dataclass(frozen=True, slots=True)
class Note:
    """One remark.

    severity: error: the model will not do what was meant; warning: it may not; rewritten: mended, and how;
              info: worth knowing
    code:     which remark, in a word or two
    what:     what is wrong
    span:     start and end in the prompt; equal: something is missing there
    advice:   what to do
    example:  the corrected text, or the part of it that matters; may be empty
    """

    severity: Severity
    code: str
    what: str
    span: tuple[int, int]
    advice: str
    example: str = ""

    def line(self) -> str:
        """The note in one sentence, without its place and its example: alike for prompts with the same trouble."""
        return f"{self.severity}: {self.what}; {self.advice}"

    def shown(self, prompt: str, width: int = 76) -> tuple[str, str]:
        """A piece of the prompt at most ``width`` cells wide, and the line of carets below it."""
        start, end = self.span
        prompt = one_line(prompt)
        first, last = window(len(prompt), start, end, width)
        # Characters of two cells may still be too many for the line.
        while cell_len(prompt[first:last]) > width - 2 * len(_ELLIPSIS) and last - first > 1:
            first, last = (first + 1, last) if start - first > last - end else (first, last - 1)
        before, after = _ELLIPSIS if first > 0 else "", _ELLIPSIS if last < len(prompt) else ""
        stop = min(max(end, start), last)
        carets = "^" * max(cell_len(prompt[start:stop]), 1)
        return before + prompt[first:last] + after, " " * (len(before) + cell_len(prompt[first:start])) + carets


def one_line(text: str) -> str:
    """A text with each line break and tab as one space."""
    return text.translate(dict.fromkeys(map(ord, "\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " "))


def window(size: int, start: int, end: int, width: int) -> tuple[int, int]:
    """Bounds of at most ``width`` of ``size`` characters around a span, which comes first where it is too long."""
    width -= 2 * len(_ELLIPSIS)
    spare = max(width - (end - start), 0)
    first = max(min(start - spare // 2, size - width), 0)
    return min(first, start), min(max(first, 0) + width, size)


def excerpt(text: str, start: int, end: int, width: int = 64) -> str:
    """A piece of a text around a span, cut at spaces, with dots where it is cut."""
    first, last = window(len(text), start, min(end, start + width), width)
    if first > 0:
        space = text.find(" ", first, start)
        first = first if space < 0 else space + 1
    if last < len(text):
        space = text.rfind(" ", end, last)
        last = last if space < 0 else space
    return ("... " if first > 0 else "") + one_line(text[first:last]) + (" ..." if last < len(text) else "")
