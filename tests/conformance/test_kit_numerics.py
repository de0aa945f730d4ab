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


class TestShifted(ScheduleContract):
    component = "shifted"
    options = {"audio_shift": 2.0}


class TestShiftedToWholeTimesteps(ScheduleContract):
    component = "shifted"
    options = {"start": 0.999, "whole_timesteps": True}


class TestShiftedTwice(ScheduleContract):
    component = "shifted-twice"


class TestCfg(GuidanceContract):
    component = "cfg"
    options = {"skip_layers": [1]}


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
