"""Every solver, schedule, guidance, objective and attention keeps the contract of its kind."""

from __future__ import annotations

import torch

from ovikit.testing import (
    AttentionContract,
    GuidanceContract,
    ObjectiveContract,
    ScheduleContract,
    SolverContract,
)


class TestEuler(SolverContract):
    component = "euler"


class TestHeun(SolverContract):
    component = "heun"


class TestDpmPlusPlus2M(SolverContract):
    component = "dpmpp-2m"


class TestUniPC(SolverContract):
    component = "unipc"
    order_within = 3  # its corrector adds one where the last step does not take it back


class TestRes2S(SolverContract):
    component = "res-2s"


class TestShifted(ScheduleContract):
    component = "shifted"
    options = {"audio_shift": 2.0}


class TestShiftedToWholeTimesteps(ScheduleContract):
    component = "shifted"
    options = {"start": 0.999, "whole_timesteps": True}


class TestShiftedTwice(ScheduleContract):
    component = "shifted-twice"


class TestDecoupled(ScheduleContract):
    component = "decoupled"
    options = {"video": {"shift": 3.0, "end": 0.75}, "audio": {"shift": 2.0, "begin": 0.25}}


class TestCfg(GuidanceContract):
    component = "cfg"
    options = {"skip_layers": [1]}


class TestSkipLayer(GuidanceContract):
    component = "skip-layer"
    options = {"layers": [1], "cfg": {"video": 2.0, "audio": 3.0}}


class TestStg(GuidanceContract):
    component = "stg"
    options = {"layers": [0, 1]}


class TestModalityIsolating(GuidanceContract):
    component = "modality-isolating"
    options = {"cfg": {"video": 2.0, "audio": 3.0}}


class TestSyncCfg(GuidanceContract):
    component = "sync-cfg"
    options = {"video": 1.5}


class TestApg(GuidanceContract):
    component = "apg"
    options = {"eta": 0.3, "threshold": 0.5}


class TestCfgZeroStar(GuidanceContract):
    component = "cfg-zero-star"


class TestCfgZeroStarFromNothing(GuidanceContract):
    component = "cfg-zero-star"
    options = {"zero_above": 0.9}
    not_affine = "above zero_above the velocity is zero, whatever the passes say"


class TestRescale(GuidanceContract):
    component = "rescale"


class TestInterval(GuidanceContract):
    component = "interval"
    options = {"video": [0.2, 0.9], "audio": [0.4, 1.0]}


class TestComposed(GuidanceContract):
    component = "composed"
    options = {
        "parts": [
            {"part": "cfg", "video": 2.0, "audio": 3.0},
            {"part": "modality-isolating"},
            {"part": "apg", "eta": 0.5},
            {"part": "interval", "video": [0.1, 0.95]},
        ]
    }


class TestFlowMatching(ObjectiveContract):
    component = "flow-matching"


class TestSdpa(AttentionContract):
    component = "sdpa"


class TestFlashAttention(AttentionContract):
    component = "flash-attn"
    requires = ("flash_attn",)
    device = "cuda"
    dtype = torch.bfloat16
    tolerance = 3e-2
