"""The toy world: drawn from a seed, exact in time, found again by the detectors."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from ovikit.types import Clip, ClipSpec
from ovikit_toyworld import story
from ovikit_toyworld.detect import audio_onsets, brightness, colour_of, pitch_of, visual_onsets
from ovikit_toyworld.prompts import HeldOutPrompts
from ovikit_toyworld.world import ToyWorld, height

CLIP = ClipSpec(duration_s=2.0, height_px=64, width_px=64, frame_rate_hz=24.0, sample_rate_hz=16000)
COUNT = 48


@cache
def clips() -> tuple[Clip, ...]:
    world = ToyWorld(CLIP, COUNT, seed=3)
    return tuple(world[i] for i in range(COUNT))


def test_a_clip_is_the_same_for_the_same_seed_and_index() -> None:
    again = ToyWorld(CLIP, 5, seed=3)[4]  # a shorter world has the same first clips
    assert torch.equal(again.video, clips()[4].video)
    assert torch.equal(again.audio, clips()[4].audio)
    assert again.truth == clips()[4].truth
    assert ToyWorld(CLIP, 5, seed=4)[4].truth != again.truth


def test_a_fingerprint_tells_worlds_apart() -> None:
    worlds = [ToyWorld(CLIP, 5, 3), ToyWorld(CLIP, 5, 4), ToyWorld(CLIP, 6, 3), ToyWorld(CLIP, 5, 3, "held-out")]
    assert len({world.fingerprint() for world in worlds}) == 4
    assert worlds[0].fingerprint() == ToyWorld(CLIP, 5, 3).fingerprint()


def test_clips_have_the_recipes_form_in_pixels_and_samples() -> None:
    wide = ClipSpec(duration_s=1.5, height_px=32, width_px=48, frame_rate_hz=12.0, sample_rate_hz=8000)
    clip = ToyWorld(wide, 1, seed=0)[0]
    assert clip.video.shape == (18, 32, 48, 3)
    assert clip.video.dtype == torch.uint8
    assert clip.audio.shape == (12000,)
    assert clip.audio.abs().max() <= 1.0


@pytest.mark.parametrize("index", range(0, COUNT, 8))
def test_an_event_starts_at_its_frame_and_at_its_sample(index: int) -> None:
    clip = clips()[index]
    light, sound = brightness(clip.video.numpy()), clip.audio.numpy()
    for time in clip.truth["event_times_s"]:
        frame, sample = round(time * 24), round(time * 16000)
        assert light[frame] - light[frame - 1] > 0.1
        assert np.abs(sound[sample : sample + 80]).max() > 5 * np.abs(sound[sample - 80 : sample]).max() + 0.02


def test_events_keep_their_distance_and_their_margins() -> None:
    world = ToyWorld(CLIP, 400, seed=0)
    for i in range(400):
        frames = np.array(world.story(i).event_frames)
        assert (np.diff(frames) >= 11).all()
        assert frames.min() >= 6
        assert frames.max() < 48 - 7


def test_a_bouncing_ball_touches_the_ground_at_its_events_only() -> None:
    bounce = next(s for i in range(99) if story.KINDS[(s := ToyWorld(CLIP, 99, 0).story(i)).cast.kind] == "bounce")
    up = height(bounce, 48, 24.0)
    assert set(np.flatnonzero(up == 0.0)) == set(bounce.event_frames)


def test_events_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        story.tell(0, 5, "train", frames=10, frame_rate_hz=24.0)


def test_prompts_tell_everything_but_the_times() -> None:
    cast = story.Cast(colour=0, size=1, place=0, kind=0, count=2)
    assert cast.prompt() == "A large red ball flashes twice on the left. Audio: two low tones."
    assert len({cast.prompt() for cast in story.CASTS}) == len(story.CASTS) == 108


def test_held_out_prompts_are_new_but_their_words_are_not() -> None:
    trained = {cast.prompt() for cast in story.TRAIN_CASTS}
    held_out = {cast.prompt() for cast in story.HELD_OUT_CASTS}
    assert len(held_out) == 18
    assert not trained & held_out
    words = {word for prompt in trained for word in prompt.split()}
    assert {word for prompt in held_out for word in prompt.split()} <= words


def test_the_prompt_set_gives_the_clip_that_each_prompt_describes() -> None:
    prompts = HeldOutPrompts(CLIP, 8, 1000, ("flash", "bounce"))
    assert [item.id for item in (prompts[0], prompts[7])] == ["00000", "00007"]
    for i in range(len(prompts)):
        reference = prompts.reference(i)
        assert reference.prompt == prompts[i].prompt
        assert reference.truth == prompts[i].truth
        assert prompts[i].truth["count"] == len(prompts[i].truth["event_times_s"])
    with pytest.raises(IndexError):
        prompts[8]


def test_eye_and_ear_find_the_truth() -> None:
    for clip in clips():
        video, audio = clip.video.numpy(), clip.audio.numpy().astype(np.float64)
        truth = clip.truth["event_times_s"]
        heard = audio_onsets(audio, 16000)
        assert visual_onsets(video, 24.0) == pytest.approx(truth, abs=0.001)
        assert heard == pytest.approx(truth, abs=0.005)
        assert colour_of(video) == clip.truth["colour"]
        found = pitch_of(audio, 16000, heard)
        assert found is not None
        assert found[0] == pytest.approx(clip.truth["pitch_hz"], abs=4.0)
        assert found[1] == story.COLOURS.index(clip.truth["colour"])


def test_eye_and_ear_find_nothing_where_nothing_is() -> None:
    noise = np.random.default_rng(0)
    still = np.broadcast_to(noise.integers(90, 110, (1, 64, 64, 3), np.uint8), (48, 64, 64, 3))
    assert visual_onsets(still, 24.0) == []
    assert colour_of(still) is None
    assert audio_onsets(1e-3 * noise.standard_normal(32000), 16000) == []
    assert pitch_of(np.zeros(32000), 16000, [0.5]) is None
