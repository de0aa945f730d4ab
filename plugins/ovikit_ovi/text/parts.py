"""A prompt parted into what is seen and what is heard, for towers that read texts of their own. Torch-free."""

from __future__ import annotations

import re
from typing import NamedTuple

from ovikit_ovi.text.prompts import Captions, behind, caption_text, in_format
from ovikit_ovi.text.scan import CAPTION, END, END_CAPTION, SPEECH, Edit, Edited, find_captions, find_tags, pairs_of

_LOOSE = re.compile(r"\s+(?=[.,;!?](?:\s|$))")


class Parts(NamedTuple):
    """What each tower reads; either may be empty."""

    video: str
    audio: str


def parts_of(prompt: str, captions: Captions) -> Parts:
    """The scene without what is said in it and without audio captions; and both of these, the speech between its tags,
    the caption in the format ``captions``. The prompt's own captions may be in either format.

    A tag without its partner parts nothing and stays in the scene. A prompt in which nothing is heard leaves the second
    text empty.
    """
    tags = find_tags(prompt)
    speeches = [one for one in pairs_of(tags, SPEECH, END)[0] if not one.inside]
    spoken = [(one.opening.start, one.closing.end) for one in speeches]
    found = [
        one
        for one in find_captions(prompt, pairs_of(tags, CAPTION, END_CAPTION)[0], spoken)
        if not any(start <= one.start < end for start, end in spoken)
    ]
    # Speech within a caption goes with the caption.
    said = [one for one in speeches if not any(caption.start <= one.opening.start < caption.end for caption in found)]
    cuts = [Edit(one.start, behind(prompt, one), " ") for one in found]
    cuts += [Edit(one.opening.start, one.closing.end, " ") for one in said]
    seen = _LOOSE.sub("", " ".join(Edited(prompt, cuts).text.split()))
    speech = " ".join(f"{SPEECH}{prompt[one.opening.end : one.closing.start]}{END}" for one in said)
    heard = prompt[slice(*found[0].inner)].strip() if len(found) == 1 else caption_text(prompt, found)
    return Parts(seen, in_format(speech, heard, captions).strip() if heard else speech)
