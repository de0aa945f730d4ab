"""The kinds of component: the hook that registers each, and the keywords that its ``build`` is given.

Every ``build`` is called as ``build(config, **keywords)`` with exactly these keywords. ``AV`` is
``ovikit.types.AV``; protocols named here are in ``ovikit/networks/protocols.py``, ``ovikit/numerics/protocols.py``,
``ovikit/data/filters.py`` and ``ovikit/evaluation/protocols.py``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of component. ``plural`` completes the hook's name, ``keywords`` are what build receives."""

    name: str
    plural: str
    keywords: tuple[str, ...]
    builds: str

    @property
    def hook(self) -> str:
        return f"ovikit_register_{self.plural}"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        # modality "video" | "audio"; channels: of the codec's latents; text_width: of the conditioner;
        # precision Precision, what is computed in which number format
        Kind("backbone", "backbones", ("modality", "channels", "text_width", "precision"), "a Backbone (nn.Module)"),
        # depth int, layers that both towers have; width AV[int]; heads AV[int]; attend callable; precision Precision
        Kind(
            "fusion",
            "fusions",
            ("depth", "width", "heads", "attend", "precision"),
            "a sequence of depth FusionLayers (nn.Module) or None",
        ),
        Kind("positions", "positions", (), "a Positions"),
        # clip ClipSpec; assets Assets, where weight files are found
        Kind("codec", "codecs", ("clip", "assets"), "a Codec"),
        # assets Assets
        Kind("conditioner", "conditioners", ("assets",), "a Conditioner"),
        Kind("attention", "attentions", (), "an Attend callable"),
        Kind("schedule", "schedules", (), "a Schedule"),
        Kind("solver", "solvers", (), "a Solver"),
        Kind("guidance", "guidances", (), "a Guidance"),
        Kind("objective", "objectives", (), "an Objective"),
        # clip ClipSpec
        Kind("dataset", "datasets", ("clip",), "a ClipSource"),
        # assets Assets
        Kind("filter", "filters", ("assets",), "a Filter or a Comparing"),
        # assets Assets
        Kind("captioner", "captioners", ("assets",), "a Captioner"),
        # clip ClipSpec, None for clips that come without a recipe; assets Assets, where weight files are found
        Kind("evaluator", "evaluators", ("clip", "assets"), "an Evaluator"),
        Kind("overall", "overalls", (), "an Overall"),
        # clip ClipSpec, None for prompts of clips that come without a recipe
        Kind("prompt_set", "prompt_sets", ("clip",), "a sequence of PromptItems"),
        Kind("checkpoint_format", "checkpoint_formats", (), "a CheckpointFormat"),
    )
}
