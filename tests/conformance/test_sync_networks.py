"""The networks of synchrony and what they are shown: each part against another implementation or a naive one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sync_kit import (
    SMALL,
    randomised,
    small_s3fd,
    small_synchformer,
    small_syncnet,
)
from torch import nn

from ovikit.evaluation.protocols import PromptItem
from ovikit_versebench.sync import faces as cutting
from ovikit_versebench.sync.s3fd import S3FD, faces
from ovikit_versebench.sync.spectra import log_mel, mfcc
from ovikit_versebench.sync.synchformer import AudioEncoder, DividedAttention, SyncBlock, Synchformer, VideoEncoder
from ovikit_versebench.sync.syncnet import SyncNet, confidence_and_distance, distances

ITEM = PromptItem("0", "a talk")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The published sizes.


@pytest.mark.parametrize(
    ("make", "numbers", "names"),
    [(Synchformer, 237_460_245, 513), (SyncNet, 13_640_256 + 14, 102), (S3FD, 22_459_110, 65)],
)
def test_the_published_sizes(make, numbers, names):
    """Four bytes each, they are the published files: synchformer_state_dict.pth has 950 MB, syncnet_v2.model 52 MiB
    (without the counters), sfd_face.pth 89.8 MB."""
    with torch.device("meta"):
        state = make().state_dict()
    assert (sum(one.numel() for one in state.values()), len(state)) == (numbers, names)


NAMED = {
    "vfeat_extractor.patch_embed.proj.weight": (768, 3, 16, 16),
    "vfeat_extractor.patch_embed_3d.proj.weight": (768, 3, 2, 16, 16),
    "vfeat_extractor.pos_embed": (1, 197, 768),
    "vfeat_extractor.temp_embed": (1, 8, 768),
    "vfeat_extractor.blocks.11.timeattn.qkv.weight": (2304, 768),
    "vfeat_extractor.spatial_attn_agg.self_attn.in_proj_weight": (2304, 768),
    "afeat_extractor.ast.embeddings.position_embeddings": (1, 74, 768),
    "afeat_extractor.ast.encoder.layer.11.attention.attention.query.weight": (768, 768),
    "afeat_extractor.ast.encoder.layer.11.attention.output.dense.weight": (768, 768),
    "afeat_extractor.freq_attn_agg.cls_token": (1, 1, 768),
    "transformer.pos_emb_cfg.pos_emb": (1, 198, 768),
    "transformer.blocks.2.mlp.2.weight": (768, 3072),
    "transformer.off_head.bias": (21,),
}


def test_names_and_shapes_of_synchformer():
    with torch.device("meta"):
        state = Synchformer().state_dict()
    assert {name: tuple(state[name].shape) for name in NAMED} == NAMED


# Its parts against others.


def test_the_audio_encoder_is_that_of_transformers():
    """Against ASTModel, which has other names from its version 5 on; its own initial tokens are zero, ours random."""
    transformers = pytest.importorskip("transformers")
    size = replace(SMALL, depth=3, width=24)
    ours = randomised(AudioEncoder(size))
    config = transformers.ASTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=96, max_length=66
    )
    theirs = transformers.ASTModel(config).eval()
    renamed = {}
    for name, value in ours.ast.state_dict().items():
        for old, new in (
            ("encoder.layer.", "layers."), ("attention.attention.query", "attention.q_proj"),
            ("attention.attention.key", "attention.k_proj"), ("attention.attention.value", "attention.v_proj"),
            ("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ):  # fmt: skip
            name = name.replace(old, new)
        renamed[name] = value
    theirs.load_state_dict(renamed)
    spectra = normal(2, 128, 66)
    with torch.no_grad():
        wanted = theirs(spectra.transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(ours.tokens(spectra), wanted, atol=1e-5, rtol=1e-5)


def test_log_mel_spectra_are_those_of_transformers():
    audio_utils = pytest.importorskip("transformers.audio_utils")
    filters = audio_utils.mel_filter_bank(513, 128, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    window = audio_utils.window_function(400, "hann", periodic=True)
    sound = 0.1 * normal(2, 10240)
    ours = log_mel(sound, 128, 66)
    for one, found in zip(sound, ours, strict=True):
        power = audio_utils.spectrogram(
            one.double().numpy(), window, 400, 160, fft_length=1024, power=2.0, center=True, pad_mode="reflect",
            mel_filters=filters,
        )  # fmt: skip
        wanted = (np.log(power + 1e-6) + 4.2677393) / (2 * 4.5689974)
        np.testing.assert_allclose(found[:, :65], wanted, atol=2e-5)
        assert torch.allclose(found[:, 65], torch.tensor(4.2677393 / (2 * 4.5689974)))


def test_divided_attention_is_what_a_loop_gives():
    width, heads, moments, places = 8, 2, 3, 4
    for apart, alike in (("(b t) h p d", lambda n: n // places), ("(b p) h t d", lambda n: n % places)):
        attention = randomised(DividedAttention(width, heads, moments, apart))
        x = normal(2, 1 + moments * places, width)
        q, k, v = attention.qkv(x).chunk(3, dim=-1)
        wanted = torch.zeros_like(x)
        for b in range(2):
            for n in range(x.shape[1]):
                seen = [m for m in range(x.shape[1]) if n == 0 or m == 0 or alike(n - 1) == alike(m - 1)]
                for h in range(heads):
                    part = slice(h * width // heads, (h + 1) * width // heads)
                    weights = torch.stack([q[b, n, part] @ k[b, m, part] / math.sqrt(width / heads) for m in seen])
                    wanted[b, n, part] = weights.softmax(0) @ torch.stack([v[b, m, part] for m in seen])
        torch.testing.assert_close(attention(x), attention.proj(wanted))


def test_the_blocks_of_the_comparison_are_pre_normed_encoder_layers():
    block = randomised(SyncBlock(16, 2))
    theirs = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    own = block.state_dict()
    inner = {
        f"self_attn.in_proj_{kind}": torch.cat([own[f"attn.{name}.{kind}"] for name in ("query", "key", "value")])
        for kind in ("weight", "bias")
    }
    names = {"self_attn.out_proj": "attn.proj", "linear1": "mlp.0", "linear2": "mlp.2", "norm1": "ln1", "norm2": "ln2"}
    outer = {f"{a}.{kind}": own[f"{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
    theirs.load_state_dict(inner | outer)
    x = normal(2, 5, 16)
    with torch.no_grad():
        torch.testing.assert_close(block(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_each_tube_of_the_picture_has_its_token_at_its_moment():
    """Without blocks, the tokens of moment t are the tubes of frames 2t and 2t + 1, with their place and moment."""
    encoder = randomised(VideoEncoder(replace(SMALL, depth=0)))
    frames = normal(1, 3, 16, 32, 32)
    got: list[torch.Tensor] = []
    encoder.spatial_attn_agg.register_forward_pre_hook(lambda _, args: got.append(args[0]))
    encoder(frames)
    [tokens] = got
    assert tokens.shape == (8, 4, 16)
    weight, bias = encoder.patch_embed_3d["proj"].weight, encoder.patch_embed_3d["proj"].bias
    for t, y, x in ((0, 0, 0), (3, 0, 1), (7, 1, 0)):
        tube = frames[0, :, 2 * t : 2 * t + 2, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        raw = (weight * tube).sum((1, 2, 3, 4)) + bias
        raw = raw + encoder.pos_embed[0, 1 + 2 * y + x] + encoder.temp_embed[0, t]
        torch.testing.assert_close(tokens[t, 2 * y + x], encoder.norm(raw), atol=1e-4, rtol=1e-4)


def test_a_summary_does_not_mind_the_order_of_what_it_sums_up():
    network = randomised(small_synchformer())
    tokens = normal(2, 7, 16)
    with torch.no_grad():
        found = network.afeat_extractor.freq_attn_agg(tokens)
        torch.testing.assert_close(found, network.afeat_extractor.freq_attn_agg(tokens.flip(1)))
    assert found.shape == (2, 16)


def test_audio_patches_are_put_in_time_after_their_summary():
    """The spectrum is changed at its end alone: without blocks the last moment alone changes."""
    encoder = randomised(AudioEncoder(replace(SMALL, depth=0)))
    spectra = normal(1, 128, 66)
    later = spectra.clone()
    later[..., 60:] += 1
    with torch.no_grad():
        changed = (encoder(spectra) - encoder(later)).abs().amax(dim=-1)[0]
    assert changed.shape == (6,)
    assert (changed > 1e-4).tolist() == [False, False, False, False, False, True]


# SyncNet and what it hears.

MFCC = {
    0: [20.4991, -15.6475, 7.1208, -9.2153, -21.8506, -33.0328],
    49: [20.4960, -15.1528, 8.2408, -7.9020, -21.7818, -33.2835],
    98: [20.2602, -12.9416, 13.0109, -4.2685, -17.0871, -26.0796],
}
"""The first six coefficients of three frames of ``hum()`` by python_speech_features 0.6 (numpy 2, scipy 1.17)."""


def hum() -> torch.Tensor:
    moments = np.arange(16000) / 16000
    noise = np.sin(np.arange(16000) ** 2 * 0.37)
    return torch.from_numpy((0.3 * np.sin(2 * np.pi * 440 * moments) + 0.05 * noise).astype(np.float32))


def test_cepstra_are_those_of_python_speech_features():
    found = mfcc(hum())
    assert found.shape == (99, 13)
    for frame, wanted in MFCC.items():
        np.testing.assert_allclose(found[frame, :6], wanted, atol=6e-5)
    assert mfcc(torch.zeros(640)).shape == (3, 13)
    assert np.isfinite(mfcc(torch.zeros(640))).all()


def test_syncnet_over_a_stretch_is_syncnet_over_each_window():
    net = randomised(small_syncnet())
    shown, cepstra = 255 * torch.rand(25 + 4, 3, 224, 224, generator=torch.Generator().manual_seed(0)), normal(119, 13)
    with torch.no_grad():
        seen, heard = net.see(shown), net.hear(cepstra)
        assert seen.shape == heard.shape == (25, 12)
        for i in (0, 7, 19, 20, 24):
            window = shown[i : i + 5].transpose(0, 1)[None]
            torch.testing.assert_close(seen[i], net.netfclip(net.netcnnlip(window).flatten(1))[0])
            window = cepstra[4 * i : 4 * i + 20].T[None, None]
            torch.testing.assert_close(heard[i], net.netfcaud(net.netcnnaud(window).flatten(1))[0])


@pytest.mark.parametrize("late", [-15, -4, 0, 1, 9])
def test_the_smallest_distance_is_where_the_sound_is(late):
    """Embeddings that are the unit vectors of moments: 0 apart where they are the same, sqrt 2 else, 1 from nothing."""
    n, units = 40, torch.eye(80)
    seen, heard = units[20 : 20 + n], units[20 - late : 20 - late + n]
    found = distances(seen, heard)
    assert int(found.argmin()) - 15 == late
    out = (torch.arange(31) - 15).abs()
    wanted = ((n - out) * math.sqrt(2) + out) / n
    wanted[15 + late] = abs(late) / n
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    confidence, distance = confidence_and_distance(seen, heard)
    assert distance == pytest.approx(abs(late) / n, abs=1e-4)
    assert confidence == pytest.approx(float(np.median(wanted.numpy())) - abs(late) / n, abs=1e-4)


# Faces.


def test_boxes_of_anchors_are_in_their_places():
    """Without weights, every anchor is as probable as not, and lies around the middle of its cell."""
    net = small_s3fd()
    for value in net.state_dict().values():
        value.zero_()
    with torch.no_grad():
        probabilities, boxes = net(torch.zeros(1, 3, 64, 96))
    cells = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    assert boxes.shape == (1, sum(y * x for y, x in cells), 4)
    # Of three equal guesses of no face the largest counts.
    assert torch.allclose(probabilities, torch.tensor(0.5))
    pixels = boxes[0] * torch.tensor([96.0, 64, 96, 64])
    torch.testing.assert_close(pixels[25], torch.tensor([-2.0, -2, 14, 14]))  # cell (1, 1) of 4 pixels, side 16
    torch.testing.assert_close(pixels[16 * 24 + 13], torch.tensor([-4.0, -4, 28, 28]))  # cell (1, 1) of 8, side 32


def test_a_box_moves_and_grows_by_what_the_network_says():
    net = small_s3fd()
    for value in net.state_dict().values():
        value.zero_()
    net.loc[2].bias.data = torch.tensor([1.0, -2.0, math.log(2) / 0.2, 0.0])
    with torch.no_grad():
        boxes = net(torch.zeros(1, 3, 64, 64))[1][0, 256 + 64 :][:16] * 64
    # Centre 8 + 0.1 * 1 * 64, 8 - 0.1 * 2 * 64; sides 128 and 64.
    torch.testing.assert_close(boxes[0], torch.tensor([14.4 - 64, -4.8 - 32, 14.4 + 64, -4.8 + 32]))


def test_of_overlapping_faces_the_most_probable_is_kept():
    boxes = torch.tensor(
        [
            [0.0, 0.0, 0.5, 0.5],
            [0.05, 0.0, 0.55, 0.5],
            [0.4, 0.4, 0.9, 0.9],
            [0.35, 0.0, 0.85, 0.5],
            [0.6, 0.6, 0.9, 0.9],
        ]
    )
    probable = torch.tensor([0.95, 0.99, 0.97, 0.96, 0.02])
    found = faces(probable, boxes, 0.9, (100, 200))
    # The first overlaps the second by 0.82; the fourth by 0.25, which is less than 0.3 but not than 0.1.
    assert np.round(found, 3).tolist() == [[10, 0, 110, 50], [80, 40, 180, 90]]
    assert len(faces(probable, boxes, 0.98, (100, 200))) == 1
    assert faces(torch.zeros(5), boxes, 0.9, (100, 200)) == []


def test_tracks_bridge_gaps_and_keep_to_scenes_and_faces():
    near, far = [0.0, 0.0, 60.0, 80.0], [200.0, 0.0, 210.0, 10.0]
    found = [[near, far] for _ in range(40)]
    found[10] = [far]
    found[11] = []
    moved = [[x + 2.0 for x in near]]
    found[12] = moved
    [track] = cutting.tracks(found, [range(40)], 20, 50.0)
    assert track.first == 0
    assert track.boxes.shape == (40, 4)
    np.testing.assert_allclose(track.boxes[9:13, 0], [0.0, 2 / 3, 4 / 3, 2.0])
    assert cutting.tracks(found, [range(15), range(15, 40)], 20, 50.0)[0].first == 15
    assert len(cutting.tracks(found, [range(40)], 20, 5.0)) == 2  # the small face, too
    assert cutting.tracks(found, [range(40)], 40, 5.0) == []
    assert cutting.tracks(found, [range(40)], 20, 81.0) == []


def test_runs_are_broken_by_a_single_frame_without_a_face():
    box = [0.0, 0.0, 10.0, 10.0]
    found = [[box]] * 60 + [[]] + [[box, box]] * 49 + [[]] + [[box]] * 50
    assert [(one.first, len(one.boxes)) for one in cutting.runs(found)] == [(0, 60), (111, 50)]


def test_a_face_is_cut_out_with_its_surroundings():
    """Of a picture whose red is the column and whose green is the row: what is cut out says where it was."""
    pytest.importorskip("cv2")
    rows, columns = np.mgrid[:200, :250].astype(np.uint8)
    video = np.stack([columns, rows, np.zeros_like(rows)], axis=-1)[None].repeat(20, 0)
    stretch = cutting.Stretch(3, np.tile([100.0, 60.0, 140.0, 110.0], (15, 1)))
    cut = cutting.crops(video, stretch, 0.4, False, 224)
    assert cut.shape == (15, 224, 224, 3)
    # The half side is 25, the middle (120, 85): columns 85 to 155, rows 60 to 130.
    inner = cut[0, 2:-2, 2:-2].astype(float)
    assert [inner[..., 0].min(), inner[..., 0].max()] == pytest.approx([85, 154], abs=1)
    assert [inner[..., 1].min(), inner[..., 1].max()] == pytest.approx([60, 129], abs=1)
    edge = cutting.crops(video, replace_boxes(stretch, [0.0, 0.0, 40.0, 50.0]), 0.4, False, 224)
    assert edge[0, 100, 2].tolist() == [110, 110, 110]  # beyond the picture


def replace_boxes(stretch: cutting.Stretch, box: list[float]) -> cutting.Stretch:
    return cutting.Stretch(stretch.first, np.tile(box, (len(stretch.boxes), 1)))


def test_the_median_filter_takes_zeros_beyond_the_ends():
    values = np.array([5.0, 9.0, 1.0, 7.0, 3.0])
    assert cutting.median_filter(values, 3).tolist() == [5, 5, 7, 3, 3]
    assert cutting.median_filter(np.full(30, 4.0), 13).tolist() == [4.0] * 30
    assert cutting.median_filter(np.array([4.0, 5.0]), 13).tolist() == [0.0, 0.0]


def test_cuts_are_where_pyscenedetect_sees_them():
    pytest.importorskip("cv2")
    detectors = pytest.importorskip("scenedetect.detectors")
    from scenedetect import FrameTimecode

    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (3, 90, 300, 3), dtype=np.uint8)
    pictures[1] //= 4
    order = np.repeat([0, 1, 2], [30, 20, 25])
    video = np.clip(pictures[order].astype(int) + generator.integers(-3, 4, (75, 1, 1, 3)), 0, 255).astype(np.uint8)
    theirs = detectors.ContentDetector()
    found = [
        cut.frame_num
        for i, frame in enumerate(video)
        for cut in theirs.process_frame(FrameTimecode(i, fps=25.0), np.ascontiguousarray(frame[..., ::-1]))
    ]
    edges = [scene.start for scene in cutting.scenes(video)]
    assert edges[1:] == found == [30, 50]


@pytest.mark.slow
def test_the_published_size_runs():
    """Two segments through the network as it is published, on random weights; and a stretch of six faces."""
    net = randomised(Synchformer())
    with torch.no_grad():
        seen, heard = net.see(normal(2, 16, 3, 224, 224)), net.hear(normal(2, 128, 66))
        assert seen.shape == (2, 8, 768)
        assert heard.shape == (2, 6, 768)
        logits = net.compare(seen[:1].expand(14, -1, -1)[None], heard[:1].expand(14, -1, -1)[None])
        assert logits.shape == (1, 21)
        syncnet = randomised(SyncNet())
        assert syncnet.see(normal(6, 3, 224, 224)).shape == (2, 1024)
        assert syncnet.hear(normal(24, 13)).shape == (2, 1024)
        assert randomised(S3FD())(normal(1, 3, 180, 320))[0].shape[0] == 1
