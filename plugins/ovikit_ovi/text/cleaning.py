"""How the released tokenizer wrapper cleans a prompt ("whitespace" cleaning), without the library that it uses.

The wrapper runs ftfy's ``fix_text``, unescapes HTML twice and collapses white space. What ftfy does to sound text is
done here in the same order: HTML entities (where neither the line nor those before it have a ``<``), Windows control
characters, ligatures, full-width characters, curly quotes, terminal escapes, control characters, NFC. What it guesses
is left out: text that was once read in the wrong encoding (``cafÃ©``) stays as it is, and the linter warns of it. So
a prompt gives the same tokens whatever is installed.
"""

from __future__ import annotations

import html
import re
import unicodedata

VERSION = "1"

_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_ESCAPE = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_C1 = re.compile("[\x80-\x9f]")
_MOJIBAKE = re.compile(r"[ÂÃ][\u0080-\u00bf]|â€[\u0080-\u00bf˜™œ“”¦]?|ï»¿|\ufffd+")


def _changed_characters() -> dict[int, str | None]:
    """What single characters become; None: they go."""
    compatible = [*range(0xFF01, 0xFFF0), *range(0xFB00, 0xFB07), *map(ord, "ĲĳŉǄǅǆǇǈǉǊǋǌǱǲǳ")]
    table: dict[int, str | None] = {code: unicodedata.normalize("NFKC", chr(code)) for code in compatible}
    table[0xFB05] = "\u017ft"
    table[0x3000] = " "
    table |= dict.fromkeys([0x02BC, *range(0x2018, 0x201C)], "'")
    table[ord("ŉ")] = "'n"
    table |= dict.fromkeys(range(0x201C, 0x2020), '"')
    gone = [*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
    return table | dict.fromkeys(gone, None)


_CHANGED = _changed_characters()


def clean(prompt: str) -> str:
    """The prompt as it is tokenised."""
    lines: list[str] = []
    unescape = True
    for line in prompt.split("\n"):
        unescape = unescape and "<" not in line
        lines.append(_fixed(line, unescape))
    text = html.unescape(html.unescape("\n".join(lines)))
    return re.sub(r"\s+", " ", text).strip()


def _fixed(line: str, unescape: bool) -> str:
    """A line after the repairs, made until they change nothing more."""
    while True:
        before = line
        if unescape:
            line = _ENTITY.sub(lambda entity: html.unescape(entity.group()), line)
        line = _C1.sub(_windows, line)
        line = _ESCAPE.sub("", line)
        line = unicodedata.normalize("NFC", line.translate(_CHANGED))
        if line == before:
            return line


def _windows(found: re.Match[str]) -> str:
    """A control character as the Windows-1252 character of the same byte, where there is one."""
    try:
        return bytes([ord(found.group())]).decode("cp1252")
    except UnicodeDecodeError:
        return found.group()


def misread(prompt: str) -> re.Match[str] | None:
    """The first place that looks like text read in the wrong encoding."""
    return _MOJIBAKE.search(prompt)
