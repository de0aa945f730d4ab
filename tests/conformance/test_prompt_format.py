"""The prompt format of the released models: what the linter finds, where, and what it rewrites."""

from __future__ import annotations

import csv
import html
import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from official_text import write_tokenizer
from rich.cells import cell_len
from typer.testing import CliRunner

from ovikit.errors import UserError
from ovikit_ovi.text.cleaning import clean
from ovikit_ovi.text.command import add_commands
from ovikit_ovi.text.component import TOKENIZER
from ovikit_ovi.text.notes import Note
from ovikit_ovi.text.prompts import Checked, check, format_of, in_format
from ovikit_ovi.text.scan import Edit, Edited
from ovikit_ovi.text.tokenizer import load_tokenizer

SOUND_TAGS = "A man in a red coat says <S>Good evening.<E> He smiles. <AUDCAP>Calm male voice, light rain.<ENDAUDCAP>"
SOUND_SUFFIX = "A man in a red coat says <S>Good evening.<E> He smiles. Audio: Calm male voice, light rain."


def codes(notes: list[Note] | tuple[Note, ...]) -> list[str]:
    return [note.code for note in notes]


def only(prompt: str, code: str, captions: str = "tags") -> Note:
    notes = check(prompt, captions).notes  # type: ignore[arg-type]
    found = [note for note in notes if note.code == code]
    assert len(found) == 1, codes(notes)
    return found[0]


def test_prompts_in_order_are_left_alone() -> None:
    for prompt, captions in ((SOUND_TAGS, "tags"), (SOUND_SUFFIX, "suffix")):
        checked = check(prompt, captions)  # type: ignore[arg-type]
        assert checked.text == prompt
        assert checked.notes == ()
        assert format_of(prompt) == captions


@pytest.mark.parametrize(
    ("prompt", "severity", "code", "shown", "example"),
    [
        ("He says <S>Hello. He goes. <AUDCAP>rain<ENDAUDCAP>", "error", "unpaired", "<S>", "<S>Hello.<E> He goes"),
        ("He says hello to you.<E> He goes.", "error", "unpaired", "<E>", "says <S>hello to you.<E>"),
        ("He says <E>hi<S> to her.", "error", "wrong-order", "<E>hi<S>", "<S>hi<E>"),
        ("He says <S>one <S>two<E> three<E>.", "error", "nested", "<S>two<E>", "<S>one two three<E>"),
        ("He says <S>one <S>two<E>.", "error", "unpaired", "<S>", "<S>one<E> <S>two<E>"),
        ("He says <S>one <AUDCAP>rain<ENDAUDCAP><E>.", "error", "nested", "<AUDCAP>", "<E> <AUDCAP>"),
        ("He says <S>hi<E>. <AUDCAP>rain", "error", "unpaired", "<AUDCAP>", "<AUDCAP>rain<ENDAUDCAP>"),
        ("He says <S>hi<E>. rain<ENDAUDCAP>", "error", "unpaired", "<ENDAUDCAP>", "<AUDCAP>rain<ENDAUDCAP>"),
        ("He says <S> ... <E>.", "warning", "empty-speech", "<S> ... <E>", "<S>Good evening.<E>"),
        ("He says <S>hi<E>. <AUDCAP> <ENDAUDCAP>", "warning", "empty-caption", "<AUDCAP> <ENDAUDCAP>", "rain"),
        ("He speaks. <AUDCAP>he says <S>hi<E><ENDAUDCAP>", "warning", "speech-in-caption", "<S>hi<E>", "<S>hi<E> <AUD"),
        ('A man says, "Come here." and goes.', "warning", "quoted-speech", '"Come here."', "<S>Come here.<E>"),
        ("“Where are you?” she whispers.", "warning", "quoted-speech", "“Where are you?”", "<S>Where are you?<E>"),
        ('The boy: "Come here."', "warning", "quoted-speech", '"Come here."', "The boy: <S>Come here.<E>"),
        ("She asks 'where is it now?'", "warning", "quoted-speech", "'where is it now?'", "<S>where is it now?<E>"),
        ("A cat on a roof at night.", "warning", "no-speech", "A cat on a roof at night.", "She says, <S>"),
        ("He says <S>hi<E>.", "info", "no-caption", "", "<AUDCAP>"),
        ("<S>hi<E> <AUDCAP>a<ENDAUDCAP> Audio: b", "warning", "several-captions", "Audio: b", "<AUDCAP>a. b.<END"),
        ("He says <speech>hi<E>", "warning", "unknown-tag", "<speech>", "<S>speech<E>"),
        ("A cafÃ© at night. He says <S>hi<E>", "warning", "encoding", "Ã©", "café"),
        ("  ", "error", "empty", "", "<S>Good evening.<E> <AUDCAP>"),
        ("<s>hi<E>", "rewritten", "misspelt-tag", "<s>", "<S>"),
    ],
)  # fmt: skip
def test_each_trouble_is_found_where_it_is_and_told_how_to_mend(
    prompt: str, severity: str, code: str, shown: str, example: str
) -> None:
    note = only(prompt, code)
    assert note.severity == severity
    assert prompt[slice(*note.span)] == shown
    assert example in f"{note.advice} {note.example}"
    assert note.what


@pytest.mark.parametrize(
    ("prompt", "tags", "suffix"),
    [
        (SOUND_TAGS, SOUND_TAGS, SOUND_SUFFIX),
        (SOUND_SUFFIX, SOUND_TAGS, SOUND_SUFFIX),
        ("<s>Hi</s> <AUDCAP>rain</AUDCAP>", "<S>Hi<E> <AUDCAP>rain<ENDAUDCAP>", "<S>Hi<E> Audio: rain"),
        ("< S >Hi< E >", "<S>Hi<E>", "<S>Hi<E>"),
        ("&lt;S&gt;Hi＜E＞", "<S>Hi<E>", "<S>Hi<E>"),
        ("[S]Hi[E] there", "<S>Hi<E> there", "<S>Hi<E> there"),
        ("<S>Hi<E> <audcap>rain<endaudcap>", "<S>Hi<E> <AUDCAP>rain<ENDAUDCAP>", "<S>Hi<E> Audio: rain"),
        ("<S>Hi<E> <AUDIOCAP>rain<END AUDCAP>", "<S>Hi<E> <AUDCAP>rain<ENDAUDCAP>", "<S>Hi<E> Audio: rain"),
        ("<S>Hi<E>. AUDIO: rain", "<S>Hi<E>. <AUDCAP>rain<ENDAUDCAP>", "<S>Hi<E>. Audio: rain"),
        ("<S>play Audio: now<E>", "<S>play Audio: now<E>", "<S>play Audio: now<E>"),
        (
            "Quiet. <AUDCAP>wind<ENDAUDCAP>. He says <S>hi<E>",
            "Quiet. <AUDCAP>wind<ENDAUDCAP>. He says <S>hi<E>",
            "Quiet. He says <S>hi<E> Audio: wind.",
        ),
        (
            "A <AUDCAP>wind<ENDAUDCAP> B <AUDCAP>rain!<ENDAUDCAP>",
            "A <AUDCAP>wind<ENDAUDCAP> B <AUDCAP>rain!<ENDAUDCAP>",
            "A B Audio: wind. rain!",
        ),
        ("<S>Hi<E> <AUDCAP>rain", "<S>Hi<E> <AUDCAP>rain", "<S>Hi<E> <AUDCAP>rain"),
        ("A cat<AUDCAP>rain<ENDAUDCAP>", "A cat<AUDCAP>rain<ENDAUDCAP>", "A cat Audio: rain"),
    ],
)
def test_rewriting(prompt: str, tags: str, suffix: str) -> None:
    for captions, wanted in (("tags", tags), ("suffix", suffix)):
        checked = check(prompt, captions)  # type: ignore[arg-type]
        assert checked.text == wanted
        assert rewritten(checked) == (wanted != prompt)
        again = check(wanted, captions)  # type: ignore[arg-type]
        assert (again.text, rewritten(again)) == (wanted, False)


def rewritten(checked: Checked) -> bool:
    """Whether the user is told that the prompt was changed."""
    return any(note.severity == "rewritten" for note in checked.notes)


def released(prompt: str, captions: str) -> str:
    """What the released code makes of a prompt before it is encoded."""
    if captions == "tags":
        return re.sub(r"Audio:\s*(.*)", r"<AUDCAP>\1<ENDAUDCAP>", prompt, flags=re.DOTALL)
    return re.sub(r"<AUDCAP>(.*?)<ENDAUDCAP>", r"Audio: \1", prompt, flags=re.DOTALL)


def test_prompts_in_order_are_encoded_as_by_the_released_code() -> None:
    scenes = ["A man says <S>Good evening.<E>", "Rain\nand <S>one<E> and <S>two!<E>.", "A cat, no speech,"]
    heard = ["calm voice", " rain, wind. ", 'music\nand a subtle emphasis on "two"']
    ends = ["", ".", "\n"]
    for scene, caption, end in itertools.product(scenes, heard, ends):
        for form, captions in itertools.product(("tags", "suffix"), repeat=2):
            prompt = in_format(scene, caption, form) + (end if form == "tags" else "")  # type: ignore[arg-type]
            text = check(prompt.strip(), captions).text  # type: ignore[arg-type]
            assert clean(text) == clean(released(prompt.strip(), captions))


@pytest.mark.parametrize(
    "prompt",
    [
        'A neon sign that says "OPEN" glows. He says <S>hi<E>',
        'A shop called "The Fig". He says <S>hi<E>',
        'He says "<S>hi<E>" to her',
        'He says <S>she told me "come here" again<E>',
        'He says <S>hi<E> <AUDCAP>emphasis on the words: "I am here"<ENDAUDCAP>',
        "It's the dog's ball, he says <S>it isn't<E>",
        "The audio: is not a mark here <S>hi<E>",
        "a < b and c > d, he says <S>hi<E>",
    ],
)
def test_what_is_no_trouble_is_not_reported(prompt: str) -> None:
    assert [note for note in check(prompt, "tags").notes if note.code != "no-caption"] == []


def test_spans_are_those_of_the_prompt_as_it_was_written() -> None:
    """Tags spelt right take another room than the ones that were written."""
    prompt = '< S >one< E > and < S >two. He goes <AUDCAP>rain</AUDCAP> then says, "Come here."'
    found = {note.code: prompt[slice(*note.span)] for note in check(prompt, "suffix").notes}
    assert found["unpaired"] == "< S >"
    assert found["caption-format"] == "<AUDCAP>rain</AUDCAP>"
    note = only('< S >one< E > and says, "Come here."', "quoted-speech")
    assert note.span == (24, 36)


TAGS = ["<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>", "<s>", "</S>", "</AUDCAP>", "< S >", "[S]", "[E]", "&lt;S&gt;", "<b>"]
PARTS = [*TAGS, "Audio:", "AUDIO:", "says", '"Come here."', "hello.", "rain,", "日本", ":", "'a b'", "cafÃ©"]


def test_whatever_is_written_is_read_and_said() -> None:
    """Spans lie in the prompt, carets can be drawn, and a prompt is changed exactly where that is said."""
    chosen = random.Random(0)
    for _ in range(600):
        glue = chosen.choice((" ", "", "\n"))
        prompt = glue.join(chosen.choices(PARTS, k=chosen.randint(1, 9)))
        for captions in ("tags", "suffix"):
            checked = check(prompt, captions)  # type: ignore[arg-type]
            assert (checked.text != prompt) == any(note.severity == "rewritten" for note in checked.notes), prompt
            for note in checked.notes:
                assert 0 <= note.span[0] <= note.span[1] <= len(prompt), (prompt, note)
                text, carets = note.shown(prompt, 40)
                assert set(carets) <= {" ", "^"}
                assert cell_len(text) <= 40
                assert note.what
                assert note.advice


def test_positions_survive_edits() -> None:
    text = "abcdefgh"
    edited = Edited(text, [Edit(1, 2, "XYZ"), Edit(4, 6, ""), Edit(8, 8, "!")])
    assert edited.text == "aXYZcdgh!"
    assert [edited.before(i) for i in range(len(edited.text))] == [0, 1, 1, 1, 2, 3, 6, 7, 8]
    assert text[slice(*edited.span(0, 2))] == "ab"
    assert text[slice(*edited.span(3, 6))] == "bcd"
    assert edited.span(5, 5) == (3, 3)


@pytest.mark.parametrize("width", [30, 50, 76])
def test_carets_stand_below_what_they_mean(width: int) -> None:
    prompt = "x " * 40 + 'says\n"Come here now." ' + "y " * 40
    text, carets = only(prompt, "quoted-speech").shown(prompt, width)
    assert len(text) <= width
    assert text[carets.index("^") : len(carets)] == '"Come here now."'


def test_carets_below_wide_characters() -> None:
    prompt = '猫が走る。 says, "come here"'
    text, carets = only(prompt, "quoted-speech").shown(prompt)
    assert carets.index("^") == cell_len(text[: text.index('"')])


def test_length_is_counted_or_estimated(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    words = "a red ball on the street " * 100
    prompt = f"{words}<S>hi<E>"
    counted = next(note for note in check(prompt, "suffix", tokenizer.count).notes if note.code == "too-long")
    assert f"{tokenizer.count(prompt)} tokens" in counted.what
    kept, lost = prompt[: counted.span[0]], prompt[slice(*counted.span)]
    assert tokenizer.count(kept) <= 512 < tokenizer.count(f"{kept}{lost.split()[0]}")
    guessed = next(note for note in check(prompt, "suffix").notes if note.code == "too-long")
    assert "estimated" in guessed.what
    for count in (None, tokenizer.count):
        assert "too-long" not in codes(check(SOUND_TAGS, "tags", count).notes)


def test_a_note_in_one_line_is_the_same_for_the_same_trouble() -> None:
    lines = {only(f'{who} says, "Come here."', "quoted-speech").line() for who in ("A man", "The boy")}
    assert lines == {
        "warning: somebody seems to say this, but it has no speech tags; "
        "put what is said, and only that, between <S> and <E>"
    }


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a \n b\t c  ", "a b c"),
        ("“Hi” it’s", '"Hi" it\'s'),
        ("&lt;S&gt;hi&amp;amp;", "<S>hi&"),
        ("Ｓ！ ﬁre e\u0301 a\u0007b\ufeff", "S! fire \u00e9 ab"),
        ("\x1b[31mred\x1b[0m a\u3000b\u00a0c\u2028d", "red a b c d"),
        ("<S> &rdquo; \u2019", "<S> ” '"),
        ("&rdquo;", '"'),
        ("cafÃ©", "cafÃ©"),
    ],
)
def test_prompts_are_cleaned_as_by_the_released_tokenizer(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned


def test_cleaning_agrees_with_ftfy_where_it_is_installed() -> None:
    ftfy = pytest.importorskip("ftfy")
    pieces = [
        "“Hi”",
        "it’s",
        "&amp;",
        "&lt;S&gt;",
        "<E>",
        "ﬁ",
        "Ｓ",
        "\u3000",
        "\r\n",
        "e\u0301",
        "\x07",
        "日本",
        "…",
        "\x92",
    ]
    for chosen in itertools.permutations(pieces, 3):
        prompt = " ".join(chosen)
        wanted = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
        assert clean(prompt) == re.sub(r"\s+", " ", wanted).strip()


# the command


def run(*arguments: str):
    app = typer.Typer()
    app.callback()(lambda: None)
    add_commands(app)
    return CliRunner().invoke(app, ["prompt", "check", *arguments])


def test_check_of_a_text_says_what_is_wrong_and_what_is_encoded() -> None:
    done = run(SOUND_TAGS, "--captions", "suffix")
    assert done.exit_code == 0
    assert SOUND_SUFFIX in " ".join(done.output.split())
    assert "1 prompt: 0 in order; rewritten 1 (audio captions: suffix)" in done.output
    done = run("He says <S>hi", SOUND_TAGS)
    assert done.exit_code == 1
    assert "2 prompts: 1 in order; errors in 1 (audio captions: as written)" in done.output
    assert re.search(r"He says <S>hi *\n +\^\^\^ *\n", done.output)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "first.png")
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(
            [
                ["id", "text_prompt", "image_path", "note"],
                ["one", SOUND_TAGS, "first.png", 'a, "b"'],
                ["two", "He says <S>hi<E>", "", "two\nlines"],
                ["three", "He says <S>hi", "", ""],
            ]
        )
    return path


def test_check_of_a_file_names_rows_and_writes_it_with_its_columns(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    done = run("--prompts", str(table), "--captions", "suffix", "--write", str(out))
    assert done.exit_code == 1
    assert "row 1" in done.output
    assert "row 2" not in done.output
    assert "row 3" in done.output
    with out.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["text_prompt"] for row in rows] == [SOUND_SUFFIX, "He says <S>hi<E>", "He says <S>hi"]
    assert [(row["id"], row["image_path"], row["note"]) for row in rows] == [
        ("one", "first.png", 'a, "b"'),
        ("two", "", "two\nlines"),
        ("three", "", ""),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", f"{SOUND_TAGS}\n\nHe says <S>hi<E>\n"),
        ("p.jsonl", f'{{"prompt": "{SOUND_TAGS}", "seed": 3}}\n{{"prompt": "He says <S>hi<E>"}}\n'),
        ("p.tsv", f"text_prompt\tmore\n{SOUND_TAGS}\tx\nHe says <S>hi<E>\ty\n"),
    ],
)
def test_other_kinds_of_files(tmp_path: Path, name: str, content: str) -> None:
    path, out = tmp_path / name, tmp_path / "out.csv"
    path.write_text(content, encoding="utf-8")
    done = run("--prompts", str(path), "--captions", "suffix", "--write", str(out))
    assert done.exit_code == 0, done.output
    with out.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row.get("text_prompt") or row.get("prompt") for row in rows] == [SOUND_SUFFIX, "He says <S>hi<E>"]
    assert [row.get("more") or row.get("seed") for row in rows] == {
        "p.txt": [None, None], "p.jsonl": ["3", ""], "p.tsv": ["x", "y"]
    }[name]  # fmt: skip


def test_tokens_are_counted_with_the_tokenizer_of_a_weights_folder(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / TOKENIZER)
    long = "a ball " * 400 + "<S>hi<E>"
    assert "estimated" in run(long).output
    counted = run(long, "--weights", str(tmp_path))
    assert f"{load_tokenizer(tmp_path / TOKENIZER).count(long)} tokens" in counted.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there are no prompts"),
        (["x", "--prompts", "p.csv"], "both TEXT and --prompts"),
        (["x", "--captions", "tags", "--recipe", "r.yaml"], "--captions and --recipe"),
        (["x", "--recipe", "recipes/tiny/ovi.yaml"], "its conditioner is 'hashed-words'"),
        (["x", "--write", "out.json"], "written to .csv files"),
        (["x", "--weights", "nowhere"], "there is no such weights folder"),
        (["--prompts", "nowhere.csv"], "there is no such file"),
    ],
)
def test_what_cannot_be_checked_is_said(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)


def test_linting_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, typer\nfrom ovikit_ovi.text.command import check_prompts\n"
        "check_prompts(['He says <S>hi<E>'])\n"
        "assert not {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
