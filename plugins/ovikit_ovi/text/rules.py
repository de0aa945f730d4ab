"""The linter's rules: each looks for one kind of trouble in a prompt and says how to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from ovikit_ovi.text.cleaning import clean, misread
from ovikit_ovi.text.notes import Note, excerpt
from ovikit_ovi.text.scan import CAPTION, END, END_CAPTION, SPEECH, SUFFIX, Caption, Edit, Edited, Pair, Tag

_SENTENCE_END = re.compile(r"[.!?。！？][\"'”’]?(?=\s|$|<)")
_VERBS = (
    "say|speak|ask|shout|yell|whisper|mutter|mumble|murmur|announce|declare|exclaim|reply|answer|respond|scream|cry|"
    "call out|sing|chant|tell|add|continue|explain|state|narrate|recite|laugh|growl|sigh|plead|beg|joke|insist|warn|"
    "promise"
)
_IRREGULAR = "said|spoke|sang|told|cries|cried|replies|replied|begged|pled"
_SPEAKS = rf"\b(?:(?:{_VERBS})(?:s|es|ed|ing|ning|ging)?|{_IRREGULAR})\b"
_BEFORE = re.compile(rf"(?:{_SPEAKS}[^.!?\"“”]{{0,60}}|[:：]\s*)$", re.IGNORECASE)
_AFTER = re.compile(rf"^\s*,?\s*(?:[\w'’-]+\s+){{0,4}}{_SPEAKS}", re.IGNORECASE)
_WRITTEN = re.compile(
    r"\b(?:sign|banner|poster|label|screen|text|title|caption|logo|headline|billboard|letters?|words?|note|card|shirt|"
    r"subtitles?|reads|reading|written|named|called|titled)\b[^.!?]*$",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"\"(?P<plain>[^\"<>]{2,400})\"|“(?P<curly>[^“”<>]{2,400})”|„(?P<low>[^„“”<>]{2,400})[“”]|«(?P<guillemets>[^«»<>]{2,400})»|"
    r"「(?P<corners>[^「」<>]{2,400})」|(?<!\w)['‘](?P<single>[^'‘<>\n]*?\s[^<>\n]*?)['’](?!\w)"
)
_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_TOKENS_PER_WORD, _TOKENS_PER_WIDE = 1.4, 0.9
_HOW = f"put what is said, and only that, between {SPEECH} and {END}"

Spans = Sequence[tuple[int, int]]
Format = Literal["tags", "suffix"]


def misspelt(tags: Sequence[Tag]) -> Iterator[Note]:
    """One remark for each spelling."""
    for written in dict.fromkeys(tag.written for tag in tags):
        same = [tag for tag in tags if tag.written == written]
        times = f" ({len(same)} times)" if len(same) > 1 else ""
        yield Note(
            "rewritten", "misspelt-tag", f"{written} is not a tag that the model knows{times}",
            (same[0].start, same[0].end), f"it was read as {same[0].name}",
        )  # fmt: skip


def lone(prompt: str, tags: Sequence[Tag], opening: str, closing: str) -> Iterator[Note]:
    """Tags without a partner; an end before its beginning is one mistake, not two."""
    waiting = list(tags)
    while waiting:
        tag = waiting.pop(0)
        span = (tag.start, tag.end)
        if tag.name == opening:
            yield _unclosed(prompt, tag, closing)
        elif waiting and waiting[0].name == opening:
            other = waiting.pop(0)
            swapped = Edited(prompt, [Edit(*span, opening), Edit(other.start, other.end, closing)]).text
            yield Note(
                "error", "wrong-order", f"{closing} comes before {opening}", (tag.start, other.end), "exchange them",
                excerpt(swapped, tag.start, other.end),
            )  # fmt: skip
        else:
            start = _sentence_start(prompt, tag.start)
            mended = Edited(prompt, [Edit(start, start, opening)]).text
            yield Note(
                "error", "unpaired", f"{closing} ends nothing: there is no {opening} before it", span,
                f"put {opening} where it begins, or take {closing} away", excerpt(mended, start, tag.end),
            )  # fmt: skip


def _unclosed(prompt: str, tag: Tag, closing: str) -> Note:
    """An opening tag without its end, and a guess where that belongs."""
    stop = re.compile(r"<|\s+Audio:").search(prompt, tag.end)
    limit = stop.start() if stop else len(prompt)
    sentence = _SENTENCE_END.search(prompt, tag.end, limit) if closing == END else None
    place = sentence.end() if sentence else tag.end + len(prompt[tag.end : limit].rstrip())
    mended = Edited(prompt, [Edit(place, place, closing)]).text
    said = "all that follows may be spoken" if closing == END else "all that follows may be read as sound"
    return Note(
        "error", "unpaired", f"{tag.name} is never closed: {said}", (tag.start, tag.end),
        f"put {closing} where it ends", excerpt(mended, place, place + len(closing)),
    )  # fmt: skip


def _sentence_start(prompt: str, place: int) -> int:
    """Where the words before ``place`` begin: behind a colon, a comma with a verb of speech, or the sentence before."""
    head = prompt[:place]
    borders = [found.end() for found in re.finditer(r"[.!?>:：]\s+|[>:：]", head) if found.end() < len(head.rstrip())]
    spoken = [found.end() for found in re.finditer(rf"{_SPEAKS}[,:]?\s+", head, re.IGNORECASE)]
    places = [one for one in borders + spoken if one < len(head.rstrip())]
    return max(places, default=0)


def nested(prompt: str, speeches: Sequence[Pair], tagged: Sequence[Pair], wanted: Format) -> Iterator[Note]:
    """Pairs within pairs of either kind."""
    for pair in (*speeches, *tagged):
        if pair.inside:
            mended = Edited(
                prompt, [Edit(pair.opening.start, pair.opening.end, ""), Edit(pair.closing.start, pair.closing.end, "")]
            ).text
            yield Note(
                "error", "nested", f"{pair.opening.name} stands within another {pair.opening.name}",
                (pair.opening.start, pair.closing.end), "keep the outer pair, or close the first before it",
                excerpt(mended, pair.opening.start, pair.opening.start + 20),
            )  # fmt: skip
    for speech in speeches:
        for caption in tagged:
            if speech.opening.start < caption.opening.start < speech.closing.start:
                yield Note(
                    "error", "nested", f"{CAPTION} stands within {SPEECH}...{END}",
                    (caption.opening.start, caption.opening.end), f"close the speech with {END} before the caption",
                    f"{SPEECH}...{END} {CAPTION}...{END_CAPTION}",
                )  # fmt: skip
            elif caption.opening.start < speech.opening.start < caption.closing.start:
                yield Note(
                    "warning", "speech-in-caption", "speech stands within the audio caption",
                    (speech.opening.start, speech.closing.end),
                    "move it before the caption, to where the speaker is named",
                    _then_caption(prompt, speech, wanted),
                )  # fmt: skip


def _then_caption(prompt: str, speech: Pair, wanted: Format) -> str:
    said = prompt[speech.opening.start : speech.closing.end]
    return f"... says {excerpt(said, 0, 0, 40)} {_shape(wanted)}"


def _shape(wanted: Format) -> str:
    return f"{CAPTION}...{END_CAPTION}" if wanted == "tags" else f"{SUFFIX} ..."


def empty_speech(prompt: str, speeches: Sequence[Pair]) -> Iterator[Note]:
    for pair in speeches:
        if not _WORD.search(prompt, pair.opening.end, pair.closing.start):
            yield Note(
                "warning", "empty-speech", f"there are no words between {SPEECH} and {END}",
                (pair.opening.start, pair.closing.end), "write what is said, or take both tags away",
                f"{SPEECH}Good evening.{END}",
            )  # fmt: skip


def unknown(tags: Sequence[Tag]) -> Iterator[Note]:
    for tag in tags:
        if tag.name is None:
            yield Note(
                "warning", "unknown-tag", f"{tag.written} is not a tag that the model knows", (tag.start, tag.end),
                "speech and captions have these", f"{SPEECH}speech{END} {CAPTION}sounds{END_CAPTION}",
            )  # fmt: skip


def captions(prompt: str, found: Sequence[Caption], speeches: Sequence[Pair], wanted: Format) -> Iterator[Note]:
    """Several captions that are not made one, empty ones, and speech that ``Audio:`` swallows."""
    merged = wanted == "suffix" and any(one.form == "tags" for one in found)
    if len(found) > 1 and not merged:
        texts = [prompt[slice(*one.inner)].strip(" .") for one in found]
        joined = ". ".join(texts) + "."
        example = f"{CAPTION}{joined}{END_CAPTION}" if wanted == "tags" else f"{SUFFIX} {joined}"
        yield Note(
            "warning", "several-captions", f"there are {len(found)} audio captions; the model was trained with one",
            (found[1].start, found[1].end), "say it all in one, at the end", excerpt(example, 0, len(example), 100),
        )  # fmt: skip
    for caption in found:
        if not _WORD.search(prompt, *caption.inner):
            yield Note(
                "warning", "empty-caption", "the audio caption is empty", (caption.start, caption.end),
                "say what is heard, or take it away", "light rain, distant traffic",
            )  # fmt: skip
        inside = [one for one in speeches if caption.inner[0] <= one.opening.start < caption.inner[1]]
        if caption.form == "suffix" and inside:
            yield Note(
                "warning", "caption-not-last",
                f"everything after '{SUFFIX}' is read as the audio caption, and here that is speech too",
                (caption.start, inside[-1].closing.end), f"put '{SUFFIX} ...' at the very end",
                _then_caption(prompt, inside[0], wanted),
            )  # fmt: skip


def quotes(prompt: str, hidden: Spans) -> list[Note]:
    """Quoted text that somebody seems to say, without tags."""
    notes: list[Note] = []
    for match in _QUOTED.finditer(prompt):
        if any(start < match.end() and match.start() < end for start, end in hidden):
            continue
        before, after = prompt[max(0, match.start() - 80) : match.start()], prompt[match.end() : match.end() + 60]
        spoken = _BEFORE.search(before) and not _WRITTEN.search(before)
        if not spoken and (match["single"] is not None or not _AFTER.search(after)):
            continue
        words = next(text for text in match.groups() if text is not None)
        mended = Edited(prompt, [Edit(match.start(), match.end(), f"{SPEECH}{words.strip()}{END}")]).text
        notes.append(
            Note(
                "warning",
                "quoted-speech",
                "somebody seems to say this, but it has no speech tags",
                (match.start(), match.end()),
                _HOW,
                excerpt(mended, match.start(), match.end() + 4),
            )
        )
    return notes


def no_speech(prompt: str, found: Sequence[Caption], wanted: Format) -> Note:
    """The remark on a prompt in which nobody speaks: the model then tends to read it out."""
    place = min([one.start for one in found], default=len(prompt))
    scene = prompt[:place].rstrip()
    tail = excerpt(scene, len(scene), len(scene), 36)
    return Note(
        "warning", "no-speech", "there is no speech in this prompt; the model may speak the prompt itself",
        (0, place), f"if somebody speaks, {_HOW}; if nobody does, say so in the audio caption",
        f"{tail} She says, {SPEECH}Good evening.{END} {_shape(wanted)}",
    )  # fmt: skip


def no_caption(prompt: str, wanted: Format) -> Note:
    example = "calm voice, light rain, distant traffic."
    return Note(
        "info", "no-caption", "there is no audio caption", (len(prompt), len(prompt)),
        "it is optional; with one, say what voices and sounds are like",
        f"... {CAPTION}{example}{END_CAPTION}" if wanted == "tags" else f"... {SUFFIX} {example}",
    )  # fmt: skip


def length(prompt: str, text: str, count: Callable[[str], int] | None, most: int) -> Iterator[Note]:
    """A prompt that is longer than what the encoder reads. What is said of its place is of ``prompt``."""
    tokens = estimated_tokens(text) if count is None else count(text)
    if tokens <= most:
        return
    share = (most - 1) / tokens
    place = int(len(prompt) * share) if count is None else _cut(prompt, count, most)
    told = f"about {tokens} tokens, estimated from its words" if count is None else f"{tokens} tokens"
    yield Note(
        "warning", "too-long", f"the prompt has {told}; the model reads {most} and drops the end, captions first",
        (place, len(prompt)),
        "shorten it" if count is not None else "shorten it, or count the tokens with --weights DIR",
        f"keep about {share:.0%} of it",
    )  # fmt: skip


def _cut(prompt: str, count: Callable[[str], int], most: int) -> int:
    """Where the first word begins that is not read."""
    starts = [0, *(found.end() for found in re.finditer(r"\s+", prompt))]
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        end = starts[middle + 1] if middle + 1 < len(starts) else len(prompt)
        low, high = (middle + 1, high) if count(prompt[:end]) <= most else (low, middle)
    return starts[min(low, len(starts) - 1)]


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: not the tokenizer's number."""
    text = clean(text)
    wide = len(_WIDE.findall(text))
    words = len(_WORD.findall(_WIDE.sub(" ", text)))
    marks = len(re.findall(r"[^\w\s]", text))
    return round(words * _TOKENS_PER_WORD + wide * _TOKENS_PER_WIDE + marks) + 1


def encoding(prompt: str) -> Iterator[Note]:
    found = misread(prompt)
    if found is not None:
        yield Note(
            "warning", "encoding", "this looks like text that was read in the wrong encoding",
            found.span(), "save the file as UTF-8, or type it again", "café, not cafÃ©",
        )  # fmt: skip
