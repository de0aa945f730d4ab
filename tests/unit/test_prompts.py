"""Prompt files: every format gives the same prompts; a bad row is named with its file and line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from ovikit.errors import UserError
from ovikit.generate.prompts import SAFE_ID, given_prompts, read_prompts

SAME = {
    "p.txt": "A red ball, low tone\n\nA blue ball\r\nA red ball, low tone\n",
    "p.csv": 'n,text_prompt\n1,"A red ball, low tone"\n2,A blue ball\n3,"A red ball, low tone"\n',
    "q.csv": 'prompt\n"A red ball, low tone"\nA blue ball\n"A red ball, low tone"\n',
    "p.tsv": "n\ttext_prompt\n1\tA red ball, low tone\n2\tA blue ball\n3\tA red ball, low tone\n",
    "p.jsonl": '{"prompt": "A red ball, low tone"}\n\n{"text_prompt": "A blue ball"}\n'
    '{"prompt": "A red ball, low tone", "x": 1}\n',
}


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("name", SAME)
def test_formats_agree_with_or_without_a_byte_order_mark(tmp_path, name, bom):
    (tmp_path / name).write_text(bom + SAME[name], encoding="utf-8")
    items = read_prompts(tmp_path / name)
    assert [item.prompt for item in items] == ["A red ball, low tone", "A blue ball", "A red ball, low tone"]
    assert [item.id for item in items] == ["00000", "00001", "00002"]


def test_ids_are_taken_from_the_rows(tmp_path):
    (tmp_path / "p.csv").write_text("id,prompt\nset1_00003,A\n00007,B\n")
    assert [item.id for item in read_prompts(tmp_path / "p.csv")] == ["set1_00003", "00007"]


def test_a_prompt_may_span_lines_in_csv_and_later_errors_keep_their_line(tmp_path):
    (tmp_path / "p.csv").write_text('id,prompt\na,"one\ntwo"\nb,\n')
    with pytest.raises(UserError, match=r"p\.csv:4: the prompt is empty"):
        read_prompts(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", r"p\.txt: it holds no prompts"),
        ("p.txt", "\n \n", r"it holds no prompts"),
        ("p.csv", "", r"it holds no prompts"),
        ("p.csv", "prompt\n", r"it holds no prompts"),
        ("p.csv", "text,id\nA,1\n", r"p\.csv:1: no column 'text_prompt' or 'prompt' among: text, id"),
        ("p.csv", "prompt\nA\nB, with a comma\n", r"p\.csv:3: the row has more than 1 columns"),
        ("p.csv", 'prompt\nA\n"B\n', r"p\.csv:3: not valid CSV"),
        ("p.csv", "id,prompt\na,A\na,B\n", r"p\.csv:3: the id 'a' was already given in line 2"),
        ("p.csv", "id,prompt\n../a,A\n", r"p\.csv:2: the id '\.\./a' cannot name a file"),
        ("p.jsonl", '{"prompt": "A"}\n{"prompt": \n', r"p\.jsonl:2: not valid JSON"),
        ("p.jsonl", '"A"\n', r"p\.jsonl:1: each line must be an object"),
        ("p.jsonl", '{"text": "A"}\n', r"p\.jsonl:1: it has no prompt"),
        ("p.jsonl", '{"prompt": 3}\n', r"p\.jsonl:1: the prompt is 3, not a text"),
        ("p.jsonl", '{"prompt": "A"}\n{"prompt": "  "}\n', r"p\.jsonl:2: the prompt is empty"),
        ("p.jsonl", '{"prompt": "A", "id": true}\n', r"p\.jsonl:1: the id is True, not a text or a number"),
        ("p.jsonl", '{"prompt": "A", "id": "x"}\n{"prompt": "B", "id": "X"}\n', r":2: the id 'X' was already given in"),
        ("p.csv", f"id,prompt\n{'a' * 201},A\n", r"cannot name a file\n  use letters, .*up to 200"),
        ("p.yaml", "A\n", r"read from \.txt, \.csv, \.tsv, \.jsonl files, not from '\.yaml'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name)


def test_only_line_feeds_end_a_line(tmp_path):
    prompt = "A ball\u2028and a tone\x0bhigh"
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\r\n", encoding="utf-8")
    (tmp_path / "p.txt").write_text(f"{prompt}\n", encoding="utf-8")
    assert [item.prompt for item in read_prompts(tmp_path / "p.jsonl")] == [prompt]
    assert [item.prompt for item in read_prompts(tmp_path / "p.txt")] == [prompt]


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00A")
    with pytest.raises(UserError, match="not UTF-8"):
        read_prompts(tmp_path / "b.txt")


def test_prompts_from_the_command_line_are_named_after_their_words():
    long = "A red ball flashes twice on the left. Audio: two low tones"
    items = given_prompts(["A red ball", " Żółta piłka ", "球", long, f"{long}."], seed=7)
    assert items[0].id == "a-red-ball-seed7"
    assert items[1].prompt == "Żółta piłka"
    assert all(SAFE_ID.fullmatch(item.id) and len(item.id) < 60 for item in items)
    assert len({item.id for item in items}) == 5
    tries = ["a red ball", "a red ball!", "a red, ball", "a  red\nball?", "!", "?"]
    assert len({given_prompts([one])[0].id for one in tries}) == len(tries)
    with pytest.raises(UserError, match="--prompt: the prompt is empty"):
        given_prompts(["A", " "])


def picture(path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 3), (255, 0, 0)).save(path)


def test_first_frames_are_found_beside_the_file_then_in_the_current_folder(tmp_path, monkeypatch):
    picture(tmp_path / "set" / "a.png")
    picture(tmp_path / "other" / "b.png")
    monkeypatch.chdir(tmp_path / "other")
    rows = ["text_prompt,image_path", "A,a.png", "B, b.png ", "C,", f"D,{tmp_path / 'other' / 'b.png'}"]
    (tmp_path / "set" / "p.csv").write_text("\n".join(rows) + "\n")
    found = [item.image for item in read_prompts(tmp_path / "set" / "p.csv")]
    assert [None if one is None else one.resolve() for one in found] == [
        tmp_path / "set" / "a.png", tmp_path / "other" / "b.png", None, tmp_path / "other" / "b.png",
    ]  # fmt: skip
    (tmp_path / "set" / "p.jsonl").write_text('{"prompt": "A", "image_path": "a.png"}\n{"prompt": "B"}\n')
    assert [item.image is None for item in read_prompts(tmp_path / "set" / "p.jsonl")] == [False, True]


def test_all_bad_rows_are_told_at_once_with_their_lines(tmp_path):
    picture(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    rows = [
        "id,prompt,image_path",
        "a,A,good.png",
        "b,,",
        "a,B,",
        "c,C,none.png",
        "d,D,cut.png",
        "e,E,,,",
        "f,F,good.png",
    ]
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError) as caught:
        read_prompts(tmp_path / "p.csv")
    told = str(caught.value).splitlines()
    assert told[0].endswith("p.csv: 5 rows cannot be used")
    assert told[1:6] == [
        "  line 3: the prompt is empty",
        "  line 4: the id 'a' was already given in line 2",
        "  line 5: there is no image 'none.png'",
        told[4],
        "  line 7: the row has more than 3 columns",
    ]
    assert told[4].startswith("  line 6: cut.png: this is not an image")


def test_a_message_lists_no_more_rows_than_can_be_read(tmp_path):
    (tmp_path / "p.jsonl").write_text("{\n" * 300)
    with pytest.raises(UserError, match="300 rows cannot be used") as caught:
        read_prompts(tmp_path / "p.jsonl")
    assert len(str(caught.value).splitlines()) == 23
    assert "and 280 more" in str(caught.value)


def test_clips_of_one_prompt_with_and_without_a_first_frame_have_names_of_their_own(tmp_path):
    picture(tmp_path / "cat.png")
    alone, begun = given_prompts(["A cat"])[0], given_prompts(["A cat"], image=tmp_path / "cat.png")[0]
    assert (alone.id, alone.image) == ("a-cat-seed0", None)
    assert (begun.id, begun.image) == ("a-cat-cat-seed0", tmp_path / "cat.png")


def test_text_that_no_tokenizer_reads_is_refused_from_files_and_from_the_command_line(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a \\ud800 b"}\n' + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"line 1: the prompt is not valid Unicode text\n.*line 2: not valid JSON"):
        read_prompts(tmp_path / "p.jsonl")
    with pytest.raises(UserError, match="not valid Unicode text"):
        given_prompts(["a \udcff"])


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.png", "a" * 5000 + ".png", "a\0.png"])
def test_first_frames_with_impossible_names_are_not_there(tmp_path, name):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "A", "image_path": name}))
    with pytest.raises(UserError, match=r"p\.jsonl:1: there is no image"):
        read_prompts(tmp_path / "p.jsonl")


def test_tables_with_another_separator_are_told_which_one_is_read(tmp_path):
    (tmp_path / "p.csv").write_text("text_prompt;image_path\nA;b.png\n")
    with pytest.raises(UserError, match=r"no column 'text_prompt'.*\n.*commas between them"):
        read_prompts(tmp_path / "p.csv")
