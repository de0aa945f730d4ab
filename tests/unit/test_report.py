"""What a report draws: the right frames, sound at its time, curves and bars in scale, prompts as text only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe_kit import GOOD, kit_catalog, write
from test_eval_runner import COUNT, FORM, Events, bench, event_clip, measure, some_results, write_event

from ovikit.errors import UserError
from ovikit.evaluation.figures import filmstrip, onsets_of, spectrogram_db, training_chart
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit.evaluation.report import Folders, bar_of, write_report
from ovikit.extras import require
from ovikit.recipe.load import load_recipe


def test_a_click_is_drawn_at_its_time():
    audio = np.zeros(16000, dtype=np.float32)
    audio[12000:12010] = 0.5
    decibels = spectrogram_db(audio, 16000)
    loudest = decibels.max(axis=0).argmax() / (decibels.shape[1] - 1)
    assert loudest == pytest.approx(12005 / 16000, abs=0.016)
    assert decibels.max() == pytest.approx(0, abs=1e-6)
    assert (
        spectrogram_db(np.zeros(16000, np.float32), 16000) == spectrogram_db(np.zeros(16000, np.float32), 16000).min()
    ).all()


def test_a_tone_is_drawn_at_its_height():
    audio = np.sin(2 * np.pi * 2000 * np.arange(16000) / 16000).astype(np.float32)
    decibels = spectrogram_db(audio, 16000)
    assert decibels[:, 20].argmax() / (len(decibels) - 1) * 8000 == pytest.approx(2000, abs=32)


def test_the_filmstrip_shows_the_middle_of_each_share_of_the_time():
    video = np.arange(12, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    assert filmstrip(video, 4)[0, ::2, 0].tolist() == [1, 4, 7, 10]
    assert filmstrip(video, 4).shape == (2, 8, 3)


def test_onsets_are_found_among_the_features_of_any_evaluator():
    found = onsets_of({"a": {"visual_onsets_s": None}, "b": {"visual_onsets_s": [0.5], "audio_onsets_s": [0.25, 1]}})
    assert (found.visual, found.audio) == ((0.5,), (0.25, 1.0))
    assert onsets_of(Unscored("there is no clip")).visual == ()


def test_the_training_chart_is_in_scale(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,loss_video,loss_audio\n10,2,2,1\n20,1,1.5,\n40,1,1,0.5\n50,1,")
    chart = training_chart(path)
    video, audio = chart.curves
    assert (video.name, video.last, audio.name, audio.last) == ("video", 1.0, "audio", 0.5)
    places = [tuple(map(float, point.split(","))) for point in video.points.split()]
    assert [x for x, _ in places] == [0.25, 0.5, 1.0]
    ticks = {label: y for y, label in chart.y_ticks}
    assert places[-1][1] == pytest.approx(ticks["1"], abs=1e-3)
    assert len(audio.points.split()) == 2
    assert training_chart(tmp_path / "none.csv") is None


def test_the_report_shows_clips_reasons_and_prompts_as_text(tmp_path):
    class Hostile(Events):
        def __getitem__(self, index: int) -> PromptItem:
            return PromptItem(f"{index:05d}", "<script>alert(1)</script> & more")

    for i in range(COUNT - 1):
        write_event(tmp_path / "clips", i, event_clip(f"{i:05d}", i + 2, i + 2), Hostile()[i].prompt)
    one = bench()
    one = type(one)(Hostile(), one.measures, FORM, ("video", "audio"))
    results = some_results(tmp_path, measure(tmp_path, one))
    recipe = load_recipe(write(tmp_path, GOOD), catalog=kit_catalog())
    folders = Folders(tmp_path / "clips", tmp_path / "truth")
    page = write_report(results, recipe, one, folders, tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert page.count('src="clips/') == COUNT - 1
    assert page.count('src="truth/') == COUNT
    assert "there is no clip" in page
    assert len(list((tmp_path / "report-figures").glob("*.png"))) == 2 * COUNT - 1


def test_bars_lie_in_the_order_of_their_numbers(tmp_path):
    for i in range(COUNT):
        write_event(tmp_path / "clips", i, event_clip(f"{i:05d}", i + 2, i + 2 if i < 4 else i - 1))
    for metric in some_results(tmp_path, measure(tmp_path)).metrics.values():
        bar = bar_of(metric)
        assert 0 <= bar.chance < bar.value < bar.ceiling <= 100
        assert 0 <= bar.low <= bar.value <= bar.high <= 100


def test_a_missing_extra_is_named():
    assert require("torch", extra="report") is torch
    with pytest.raises(UserError, match=r"pip install 'ovikit\[report\]'"):
        require("no_such_module_of_ovikit", extra="report")
