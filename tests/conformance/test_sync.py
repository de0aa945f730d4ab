"""Synchrony by networks, on clips whose offsets are known: both rules by hand, and reasons where nothing is told."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sync_kit import (
    RISE_PER_S,
    Clock,
    randomised,
    small_synchformer,
    small_syncnet,
    telling_clip,
    use_small_networks,
    write_small_weights,
)

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.needs import network
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit.generate.media import read_views, write_clip
from ovikit.types import Clip
from ovikit_versebench.sync.lips import LipSync
from ovikit_versebench.sync.offsets import AvOffset, Desync
from ovikit_versebench.sync.options import LipSyncConfig
from ovikit_versebench.sync.packing import packed, unpacked
from ovikit_versebench.sync.spectra import log_mel, mfcc
from ovikit_versebench.sync.syncnet import with_counters

ITEM = PromptItem("0", "a talk")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Weights by their published names.


@pytest.mark.parametrize("kind", ["missing", "unexpected", "misshapen"])
def test_weights_are_loaded_by_their_names_and_by_no_others(tmp_path, kind):
    write_small_weights(tmp_path)
    path = tmp_path / "synchformer_state_dict.pth"
    state = torch.load(path)
    network(small_synchformer, path)
    name = "afeat_extractor.ast.layernorm.weight"
    if kind == "missing":
        del state[name]
    elif kind == "unexpected":
        name = "another.weight"
        state[name] = torch.zeros(1)
    else:
        state[name] = torch.zeros(3)
    torch.save(state, path)
    with pytest.raises(UserError, match=name) as error:
        network(small_synchformer, path)
    assert str(path) in str(error.value)


def test_syncnets_file_has_no_counters(tmp_path):
    write_small_weights(tmp_path)
    net = network(small_syncnet, tmp_path / "syncnet_v2.model", named=with_counters)
    assert int(net.netcnnlip[1].num_batches_tracked) == 0
    state = torch.load(tmp_path / "syncnet_v2.model")
    del state["netfclip.1.running_mean"]
    torch.save(state, tmp_path / "syncnet_v2.model")
    with pytest.raises(UserError, match="running_mean"):
        network(small_syncnet, tmp_path / "syncnet_v2.model", named=with_counters)


def test_weights_that_are_not_here_are_asked_for():
    for judge in (
        AvOffset(Assets(Path(os.curdir)), "nowhere.pth", "fixed"),
        LipSync(Assets(Path(os.curdir)), LipSyncConfig()),
    ):
        missing = [need for need in judge.needs if need.missing]
        assert missing
        assert all(need.source.startswith("https://") and need.licence for need in missing)


def test_versions_tell_weights_and_rules_apart(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    write_small_weights(tmp_path)
    weights = tmp_path / "synchformer_state_dict.pth"

    def version(rules: str = "fixed") -> str:
        judge = Desync(Assets(tmp_path), weights.name, rules)
        assert judge.version == judge.metrics[0].version
        return judge.version

    first = version()
    assert first != version("official")
    torch.save(randomised(small_synchformer(), 5).state_dict(), weights)
    assert first != version()


def test_packed_tensors_come_back():
    x = normal(3, 4, 5)
    assert torch.equal(unpacked(packed(x, "<f4")), x)
    torch.testing.assert_close(unpacked(packed(x, "<f2")), x, atol=2e-3, rtol=1e-3)


# The offsets of clips that tell the time.


@pytest.fixture
def clock() -> Clock:
    """Set by a segment of sound whose middle is at 2 s."""
    found = Clock()
    start = round((2.0 - 0.32) * 16000)
    segment = telling_clip(3.0).audio[start : start + 10240]
    found.zero = float(found.hear(log_mel(segment[None], 128, 66)).mean()) - 2.0
    return found


def judge_with(clock: Clock, kind: type, rules: str):
    judge = kind(Assets(Path(os.curdir)), "no.pth", rules)
    judge._network = clock
    return judge


def scored(judge, clip: Clip, sound: Clip | None = None):
    return judge.score(judge.features(clip), judge.features(sound or clip), ITEM)[judge.metrics[0].name]


@pytest.mark.parametrize("late_s", [-1.0, -0.4, 0.0, 0.2, 0.6, 2.0])
@pytest.mark.parametrize("seconds", [5.0, 5.04, 7.0])
def test_a_known_offset_is_found(clock, late_s, seconds):
    """A sound that is late by 0.6 s is ahead by -0.6 s; fixed rules and DeSync tell the magnitude."""
    clip = telling_clip(seconds, late_s)
    assert scored(judge_with(clock, AvOffset, "official"), clip) == pytest.approx(-late_s)
    assert scored(judge_with(clock, AvOffset, "fixed"), clip) == pytest.approx(abs(late_s))
    assert scored(judge_with(clock, Desync, "fixed"), clip) == pytest.approx(abs(late_s))


def test_offsets_with_their_sign_cancel(clock):
    clips = [telling_clip(5.0, late_s) for late_s in (-0.6, 0.6)]
    official, fixed = (
        [scored(judge_with(clock, AvOffset, rules), c) for c in clips] for rules in ("official", "fixed")
    )
    assert sum(official) == pytest.approx(0.0)
    assert sum(fixed) / 2 == pytest.approx(0.6)


@pytest.mark.parametrize("kind", [AvOffset, Desync])
@pytest.mark.parametrize("rate_hz", [24.0, 30.0])
def test_a_known_offset_is_found_in_a_file(tmp_path, clock, kind, rate_hz):
    """Of another frame rate, sample rate and size, encoded."""
    clip = telling_clip(5.5, 0.4, rate_hz, 48000, (180, 320))
    write_clip(tmp_path / "a.mp4", clip)
    judge = judge_with(clock, kind, "fixed")
    [seen] = read_views(tmp_path / "a.mp4", [judge.view]).values()
    assert min(seen.video.shape[1:3]) == judge.view.shortest_px
    assert scored(judge, seen) == pytest.approx(0.4)


def test_both_ends_of_a_clip_count_for_desync(clock):
    """In sync at first, 0.8 s late from the middle on; the sound of a longer clip may be exchanged for its own."""
    clip, late = telling_clip(10.0), telling_clip(10.0, 0.8)
    half = len(clip.audio) // 2
    changed = replace(clip, audio=torch.cat((clip.audio[:half], late.audio[half:])))
    judge = judge_with(clock, Desync, "fixed")
    assert scored(judge, changed) == pytest.approx(0.4)
    assert scored(judge, clip, changed) == pytest.approx(0.4)
    assert scored(judge, telling_clip(4.8), changed) == pytest.approx(0.0)
    # the last 4.8 s that both have
    assert scored(judge, telling_clip(9.8), changed) == pytest.approx(0.4)


def test_offsets_of_the_official_tool_begin_at_frame_2(clock):
    """14 segments take 120 of 125 frames; from which frame on is seen by what the network is shown."""
    judge = judge_with(clock, AvOffset, "official")
    shown: list[torch.Tensor] = []
    heard: list[torch.Tensor] = []
    clock.see = lambda frames: shown.append(frames) or Clock.see(clock, frames)
    clock.hear = lambda spectra: heard.append(spectra) or Clock.hear(clock, spectra)
    clip = telling_clip(6.0)
    judge.features(clip)
    frames = torch.cat(shown)
    assert frames.shape == (14, 16, 3, 32, 32)
    wanted = torch.stack([clip.video[2 + 8 * s : 18 + 8 * s] for s in range(14)]).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(frames, wanted / 127.5 - 1, atol=1e-3, rtol=0)
    segment = clip.audio[1280 + 5120 * 13 :][:10240]
    torch.testing.assert_close(torch.cat(heard)[13], log_mel(segment[None], 128, 66)[0])


@pytest.mark.parametrize("kind", [AvOffset, Desync])
def test_what_cannot_be_compared_is_a_reason(clock, kind):
    clip = telling_clip(5.0)
    still = replace(clip, video=clip.video[:1].expand(125, -1, -1, -1))
    silent = replace(clip, audio=torch.zeros(80000))
    broken = replace(clip, audio=torch.full((80000,), torch.nan))
    short = telling_clip(4.76)
    reasons = {}
    for rules in ("fixed", "official"):
        judge = judge_with(clock, kind, rules)
        cases = {
            "still": still, "silent": silent, "broken": broken, "short": short,
            "4.9 s": telling_clip(4.88), "mute": replace(clip, audio=None), "blind": replace(clip, video=None),
            "one frame": replace(clip, video=clip.video[:1]),
        }  # fmt: skip
        reasons[rules] = {name: scored(judge, one) for name, one in cases.items()}
    for name, score in reasons["fixed"].items():
        assert isinstance(score, float if name == "4.9 s" else Unscored), name
    scored_officially = {name for name, score in reasons["official"].items() if isinstance(score, float)}
    assert scored_officially == {"still", "silent"} | ({"4.9 s"} if kind is Desync else set())
    assert "fewer than 12" in reasons["fixed"]["one frame"].reason


def test_av_a_is_of_sets_1_and_2(clock):
    judge = judge_with(clock, AvOffset, "fixed")
    truth = {"audio_prompts": ["rain"], "speech": "", "speaker": ""}
    for subset, asked in (("set1", True), ("set2", True), ("set3", False)):
        assert (judge.leaves_out(PromptItem("0", "", {**truth, "subset": subset})) is None) == asked
    assert judge.leaves_out(PromptItem("0", "", {**truth, "subset": "set1", "audio_prompts": []}))
    assert judge.leaves_out(PromptItem("0", "", truth)) is None
    assert judge.leaves_out(PromptItem("0", "")) is None


# Lips of clips that tell the time.


class LipClock:
    """In place of SyncNet: eight times the unit vector of the frame's number, told by brightness and by energy."""

    def see(self, shown: torch.Tensor) -> torch.Tensor:
        return 8 * torch.eye(256)[(shown[:-4].mean((1, 2, 3)) - 20).round().long() + 50]

    def hear(self, cepstra: torch.Tensor) -> torch.Tensor:
        energy = cepstra[: len(cepstra) - 19 : 4, 0]
        frames = (energy - self.zero) / (2 * RISE_PER_S / 25)
        return 8 * torch.eye(256)[frames.round().long() + 50]

    def __init__(self) -> None:
        self.zero = float(mfcc(talking_clip(25).audio)[1, 0]) - 2 * RISE_PER_S / 100


class FaceWhereBright:
    """In place of S3FD: one face in the middle of pictures that are not black."""

    def __call__(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probable = 0.99 if float(pictures.mean()) > 10 else 0.01
        return torch.tensor([[probable]]), torch.tensor([[[0.3, 0.3, 0.7, 0.7]]])


def talking_clip(frames: int, late: int = 0, dark: tuple[int, ...] = ()) -> Clip:
    """Brightness and loudness tell a frame's number; ``dark`` frames show no face."""
    grey = torch.arange(frames) + 20
    grey[list(dark)] = 0
    video = grey.to(torch.uint8)[:, None, None, None].expand(-1, 256, 256, 3).contiguous()
    moments = torch.arange(640 * frames, dtype=torch.float64) / 16000
    tone = 0.005 * torch.exp(RISE_PER_S * (moments - late / 25)) * torch.sin(2 * math.pi * 1000 * moments)
    return Clip("talk", "", video, tone.float(), 25.0, 16000)


def lip_judge(**options) -> LipSync:
    judge = LipSync(Assets(Path(os.curdir)), LipSyncConfig(**({"least_face_px": 50.0} | options)))
    judge._syncnet, judge._detector = LipClock(), FaceWhereBright()
    return judge


def wanted_lse(windows: int, late: int) -> tuple[float, float]:
    """Confidence and distance by hand: 0 apart where it is the same frame, 8 sqrt 2 else, 8 beyond the sound."""
    out = [abs(shift) for shift in range(-15, 16)]
    means = [((windows - o) * 8 * math.sqrt(2) + 8 * o) / windows for o in out]
    means[15 + late] = 8 * abs(late) / windows
    return float(np.median(means)) - means[15 + late], means[15 + late]


@pytest.mark.parametrize(("rules", "left_out"), [("fixed", 5), ("official", 6)])
@pytest.mark.parametrize("late", [0, 3, -7])
def test_lip_sync_by_hand(rules, left_out, late):
    pytest.importorskip("cv2")
    judge = lip_judge(rules=rules)
    features = judge.features(talking_clip(110, late))
    [face] = features["faces"]
    assert face["lips"]["shape"] == [110 - left_out, 256]
    scores = judge.score(features, features, ITEM)
    confidence, distance = wanted_lse(110 - left_out, late)
    assert scores["lse_c"] == pytest.approx(confidence, abs=1e-3)
    assert scores["lse_d"] == pytest.approx(distance, abs=1e-3)


def test_the_mean_is_of_the_faces_of_a_clip():
    """Two runs of frames with a face, the second of which begins at frame 61: its sound does, too."""
    pytest.importorskip("cv2")
    judge = lip_judge(rules="official")
    features = judge.features(talking_clip(121, 2, dark=(60,)))
    assert [face["first"] for face in features["faces"]] == [0, 61]
    scores = judge.score(features, features, ITEM)
    confidence, distance = np.mean([wanted_lse(54, 2), wanted_lse(54, 2)], axis=0)
    assert scores["lse_c"] == pytest.approx(confidence, abs=1e-3)
    assert scores["lse_d"] == pytest.approx(distance, abs=1e-3)
    # A track goes on where a face is not found for a moment; the sounds of two clips may be exchanged.
    whole = lip_judge()
    features = whole.features(talking_clip(121, dark=(30,)))
    other = whole.features(talking_clip(80, -4))
    assert len(features["faces"]) == 1
    assert isinstance(whole.score(features, other, ITEM)["lse_c"], float)


def test_a_clip_without_a_face_counts_against_coverage_under_fixed_rules_alone():
    pytest.importorskip("cv2")
    dark = talking_clip(110, dark=tuple(range(110)))
    for rules, asked in (("fixed", True), ("official", False)):
        judge = lip_judge(rules=rules)
        features = judge.features(dark)
        for score in judge.score(features, features, ITEM).values():
            assert score == Unscored("no face is found", asked=asked)
        mute = judge.features(replace(talking_clip(110), audio=None))
        assert judge.score(mute, mute, ITEM)["lse_d"] == Unscored("no sound")


def test_what_lip_sync_cannot_judge_is_a_reason():
    pytest.importorskip("cv2")
    judge, clip = lip_judge(), talking_clip(110)
    sounds = {"silent": torch.zeros(70400), "NaN": torch.full((70400,), torch.nan), "shorter than": torch.ones(3000)}
    good = judge.features(clip)
    for told, sound in sounds.items():
        spoilt = judge.features(replace(clip, audio=sound))
        assert told in judge.score(good, spoilt, ITEM)["lse_c"].reason
    for told, video in (("long enough", clip.video[:90]), ("no picture", None), ("no face", clip.video[:, :100, :100])):
        spoilt = judge.features(replace(clip, video=video))
        assert told in judge.score(spoilt, good, ITEM)["lse_c"].reason
    assert "large enough" in lip_judge(least_face_px=150.0).features(clip)["unseen"]


def test_lip_sync_is_asked_where_somebody_speaks():
    judge = lip_judge()
    assert judge.leaves_out(PromptItem("0", "", {"speech": "", "subset": "set1"}))
    assert judge.leaves_out(PromptItem("0", "", {"speech": "Hello", "subset": "set3"})) is None
    assert judge.leaves_out(PromptItem("0", "")) is None
