"""The numerics that ovikit itself registers: options and builders. Torch is imported when one is built."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ovikit.kernel.component import Component, Config, NoOptions

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Scale = Annotated[float, Field(allow_inf_nan=False)]
Level = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Layer = Annotated[int, Field(ge=0)]


class ShiftedConfig(Config):
    """Even noise levels, shifted towards noise."""

    shift: Positive = 5.0
    """s of sigma = s r / (1 + (s - 1) r), r falling evenly from ``start`` to 0: above 1, more steps near noise."""
    audio_shift: Positive | None = None
    """The shift of the audio's noise levels; null: the same as the video's."""
    start: Level = 1.0
    """The first level, before the shift, in (0, 1]; 1 is pure noise. The released Ovi grid for UniPC has 0.999."""
    whole_timesteps: bool = False
    """Tell the network the noise level cut down to a thousandth, as the released Ovi does with UniPC and DPM++."""


class TwiceShiftedConfig(Config):
    """The noise levels of the released Ovi's Euler sampler, which shifts them twice."""

    shift: Positive = 5.0
    """The shift, as in ``shifted``; here it is applied to the ends of the grid and then to the grid."""
    audio_shift: Positive | None = None
    """The shift of the audio's noise levels; null: the same as the video's."""


class WindowConfig(Config):
    """When one modality is denoised, and how its levels are spread."""

    shift: Positive = 5.0
    """The shift, as in ``shifted``."""
    begin: Share = 0.0
    """From which share of the run's steps on its level falls; before, it stays at the first one."""
    end: Share = 1.0
    """At which share of the run's steps it has reached 0; from there on the other modality sees it finished."""

    @model_validator(mode="after")
    def _lasts(self) -> WindowConfig:
        if self.begin >= self.end:
            raise ValueError(f"a window from {self.begin:g} to {self.end:g} has no steps: begin is to be below end")
        return self


class DecoupledConfig(Config):
    """Noise levels of each modality by itself. Windows that overlap little make a cascade inside one model: with video
    [0, 0.5] and audio [0.5, 1] the audio is made for the finished video."""

    video: WindowConfig = WindowConfig()
    """Of the video."""
    audio: WindowConfig = WindowConfig()
    """Of the audio."""
    start: Level = 1.0
    """The first level, before the shift, as in ``shifted``."""
    whole_timesteps: bool = False
    """Tell the network the noise level cut down to a thousandth, as in ``shifted``."""

    @model_validator(mode="after")
    def _something_moves_in_every_step(self) -> DecoupledConfig:
        first, second = sorted((self.video, self.audio), key=lambda window: window.begin)
        if first.begin > 0 or second.begin > first.end or max(first.end, second.end) < 1:
            raise ValueError(
                "there are steps in which neither modality is denoised: one window begins at 0, one ends at 1, "
                "and there is no gap between them"
            )
        return self


class SolverConfig(Config):
    """Options of the solvers that the released Ovi offers too."""

    coefficients: Literal["float64", "float32"] = "float64"
    """Precision in which a step's scalars are worked out. With float32 a run on float32 latents has the released
    code's bits; float64 is more exact. The latents keep their own precision either way."""


class ClassifierFreeConfig(Config):
    """Classifier-free guidance: velocity = negative + scale (prompt - negative)."""

    video: Scale = 4.0
    """Guidance scale of the video. 1 makes no use of the negative pass."""
    audio: Scale = 3.0
    """Guidance scale of the audio. With both scales 1 the negative pass is not run."""
    skip_layers: tuple[Layer, ...] = ()
    """Layers, counted from 0, that both towers leave out of the negative pass; the released Ovi skips 11."""


class FlowMatchingConfig(Config):
    """Flow matching: the mean squared error of the velocity at a random noise level."""

    video_weight: NotNegative = 0.85
    """Weight of the video's loss in the total; Ovi's is 0.85."""
    audio_weight: NotNegative = 0.15
    """Weight of the audio's loss in the total; Ovi's is 0.15."""
    shared_sigma: bool = True
    """One noise level for both modalities of a clip, as Ovi has it; false: one each, independent."""
    shift: Positive = 1.0
    """s of sigma = s u / (1 + (s - 1) u), u uniform in [0, 1): above 1, training sees more noise."""


def _shifted(config: ShiftedConfig) -> Any:
    from ovikit.numerics.schedule import ShiftedSchedule

    return ShiftedSchedule(config.shift, config.audio_shift, config.start, config.whole_timesteps)


def _twice_shifted(config: TwiceShiftedConfig) -> Any:
    from ovikit.numerics.schedule import TwiceShiftedSchedule

    return TwiceShiftedSchedule(config.shift, config.audio_shift)


def _decoupled(config: DecoupledConfig) -> Any:
    from ovikit.numerics.schedule import DecoupledSchedule, Window
    from ovikit.types import AV

    windows = AV(config.video, config.audio).map(lambda one: Window(one.shift, one.begin, one.end))
    return DecoupledSchedule(windows, config.start, config.whole_timesteps)


def _euler(config: SolverConfig) -> Any:
    from ovikit.numerics.solver.euler import Euler

    return Euler(config.coefficients)


def _heun(config: NoOptions) -> Any:
    from ovikit.numerics.solver.heun import Heun

    return Heun()


def _dpmpp_2m(config: SolverConfig) -> Any:
    from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M

    return DpmPlusPlus2M(config.coefficients)


def _res_2s(config: NoOptions) -> Any:
    from ovikit.numerics.solver.res_2s import Res2S

    return Res2S()


def _unipc(config: SolverConfig) -> Any:
    from ovikit.numerics.solver.unipc import UniPC

    return UniPC(config.coefficients)


def _cfg(config: ClassifierFreeConfig) -> Any:
    from ovikit.numerics.guidance import ClassifierFree
    from ovikit.types import AV

    return ClassifierFree(AV(config.video, config.audio), config.skip_layers)


def _flow_matching(config: FlowMatchingConfig) -> Any:
    from ovikit.numerics.objective import FlowMatching
    from ovikit.types import AV

    return FlowMatching(AV(config.video_weight, config.audio_weight), config.shared_sigma, config.shift)


COMPONENTS: dict[str, tuple[Component, ...]] = {
    "schedule": (
        Component("shifted", ShiftedConfig, _shifted, "even noise levels, shifted towards noise"),
        Component("shifted-twice", TwiceShiftedConfig, _twice_shifted, "the grid of the released Ovi's Euler sampler"),
        Component("decoupled", DecoupledConfig, _decoupled, "a shift and a window of the run for each modality"),
    ),
    "solver": (
        Component("euler", SolverConfig, _euler, "Euler: first order, one evaluation per step"),
        Component("heun", NoOptions, _heun, "Heun: second order, two evaluations per step but the last"),
        Component(
            "res-2s", NoOptions, _res_2s, "RES-2S: second order in log-SNR, two evaluations per step but the last"
        ),
        Component("dpmpp-2m", SolverConfig, _dpmpp_2m, "DPM-Solver++(2M): second order, one evaluation per step"),
        Component(
            "unipc", SolverConfig, _unipc, "UniPC, order 2, bh2: predictor and corrector, one evaluation per step"
        ),
    ),
    "guidance": (
        Component(
            "cfg", ClassifierFreeConfig, _cfg, "classifier-free guidance per modality, with skip-layer negative pass"
        ),
    ),
    "objective": (
        Component(
            "flow-matching", FlowMatchingConfig, _flow_matching, "flow matching, shared or independent noise levels"
        ),
    ),
}
"""The components by kind."""
