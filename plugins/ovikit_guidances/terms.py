"""Terms: which further pass is run, and how far each modality is pushed away from what it says.

velocity = prompt + sum over terms of (scale - neutral) (prompt - pass)
"""

from __future__ import annotations

from dataclasses import dataclass

from ovikit.numerics.guidance import NEGATIVE, PROMPT
from ovikit.numerics.protocols import Pass
from ovikit.types import AV, Modality, Perturbation


@dataclass(frozen=True, slots=True)
class Push:
    """Away from one pass.

    scale:   of each modality, as the recipe has it
    neutral: the scale that pushes nowhere: 1 for classifier-free guidance, else 0
    pair:    the pass differs from the prompt's only where both modalities take part
    """

    run: Pass
    scale: AV[float]
    neutral: float = 0.0
    pair: bool = False

    def weight(self, modality: Modality) -> float:
        """How far a modality is pushed."""
        return self.scale[modality] - self.neutral


def negative(scale: AV[float], skip_layers: tuple[int, ...]) -> Push:
    """Classifier-free guidance (arXiv 2207.12598)."""
    return Push(_pass(NEGATIVE, Perturbation(skip_layers=_sorted(skip_layers))), scale, neutral=1.0)


def without_layers(scale: AV[float], layers: tuple[int, ...]) -> Push:
    """Skip-layer guidance, with the prompt's own text (Stable Diffusion 3.5)."""
    return Push(_pass(PROMPT, Perturbation(skip_layers=_sorted(layers))), scale)


def without_self_attention(scale: AV[float], layers: tuple[int, ...]) -> Push:
    """Spatio-temporal guidance (arXiv 2411.18664)."""
    return Push(_pass(PROMPT, Perturbation(skip_self=_sorted(layers))), scale)


def isolated(scale: AV[float]) -> Push:
    """Guidance away from towers that do not hear each other (LTX-2, arXiv 2601.03233)."""
    return Push(_pass(PROMPT, Perturbation(cut_fusion=True)), scale, pair=True)


def anchored(scale: AV[float]) -> tuple[Push, Push]:
    """SyncCFG (Harmony, arXiv 2511.21579): video away from what it is with silence, audio from what it is with a still
    picture. Each pass says something of one modality only."""
    return (
        Push(_pass(PROMPT, anchors=("audio",)), AV(scale["video"], 0.0), pair=True),
        Push(_pass(PROMPT, anchors=("video",)), AV(0.0, scale["audio"]), pair=True),
    )


def _sorted(layers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(layers)))


def _pass(
    conditioning: str, perturbation: Perturbation = Perturbation(), anchors: tuple[Modality, ...] = ()
) -> Pass:  # fmt: skip
    """A pass named after what it is, so that terms which read the same pass share it."""
    told = {
        "without layers": perturbation.skip_layers,
        "without self-attention in": perturbation.skip_self,
        "without fusion": (("",) if perturbation.cut_fusion else ()),
        "anchored": anchors,
    }
    words = [f"{what} {' '.join(map(str, which))}".strip() for what, which in told.items() if which]
    return Pass(", ".join([conditioning, *words]), conditioning, perturbation, anchors)
