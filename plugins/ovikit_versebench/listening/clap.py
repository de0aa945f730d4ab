"""Whether a sound fits its prompt, by CLAP (Wu et al. 2023) in the layout of transformers.

Read for it: fd/clap_inferencer.py, fd/hook.py, fd/training/data.py and calculate_metrics.py of Verse-Bench at commit
5645a09, and laion-clap 1.1.7.

Held to both: transformers' network with LAION's weights gives what laion-clap gives (``clap_names``), and spectra are
those of its feature extractor.

What differs from the tool: of a sound longer than 10 s it fuses three pieces that it draws anew each time, here they
are the middle ones of the three thirds that it draws from; sounds are resampled by FFmpeg, not by librosa. What differs
from transformers' ClapFeatureExtractor: it tells the network that one of the sounds that it is given is longer than
10 s even if none is, which the tool does not, and it shrinks long spectra without a filter.

Shape legend: n samples, t frames, m mels, w width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.needs import device, digest_of, need_asset, need_package, network
from ovikit.evaluation.protocols import MetricSpec, Part, PromptItem, Score, Unscored
from ovikit.extras import require
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.listening.clap_names import NUMPY_NUMBERS, from_laion
from ovikit_versebench.listening.options import Rules
from ovikit_versebench.listening.sounds import QUIETEST, at_peak, padded, plain, why_unheard
from ovikit_versebench.listening.statistics import distance_of_two
from ovikit_versebench.listening.tagging import NO_TRUTH, known_truth, of_another_set, set_distance
from ovikit_versebench.mel import decibels, htk_filters, slaney_filters

VERSION = "1"
RATE_HZ = 48000
LEVELS = 32767.0
"""Of the 16 bits that sounds are rounded to, towards zero."""
TOKENS = 77
CS_SETS = ("set1", "set2")
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
ROBERTA_EPS = 1e-5
"""Of the norms of LAION's own network of texts; transformers' has 1e-12 where its configuration does not tell."""
COUNTERS = ("position_ids", "token_type_ids", "relative_position_index")
"""What follows from the network's sizes, and is in some versions' files and not in others'."""


class Clap:
    """Embeddings of sounds and texts by the network of a folder: configuration, words and spectrum as transformers
    writes them, and weights as it or LAION does.

    UserError naming the folder, or the file, where something is missing or not as it should be.
    """

    def __init__(self, folder: Path) -> None:
        transformers = require("transformers", "ovi")
        if not folder.is_dir():
            raise UserError("this is no folder of CLAP", str(folder), "name a folder with config.json and weights")
        files = [folder / name for name in FILES if (folder / name).is_file()] or sorted(folder.glob("*.pt"))
        if not files:
            raise UserError("there are no weights in this folder", str(folder), f"there should be {FILES[0]}")
        laion = files[0].suffix == ".pt"
        try:
            config = transformers.ClapConfig.from_pretrained(folder, local_files_only=True)
            self._form = transformers.ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
            self._words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            told = str(error).splitlines()[0]
            raise UserError(f"this folder of CLAP cannot be used ({told})", str(folder)) from error
        self._fused = bool(config.audio_config.enable_fusion)
        if laion:
            config.text_config.layer_norm_eps = ROBERTA_EPS
        with torch.random.fork_rng(devices=[]):
            made = transformers.ClapModel(config)
        counters = {name: one for name, one in made.state_dict().items() if name.endswith(COUNTERS)}

        def named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            own = from_laion(state) if laion else state
            return {name: one for name, one in own.items() if not name.endswith(COUNTERS)} | counters

        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            self._network = network(lambda: made, files[0], within="state_dict" if laion else None, named=named)

    @torch.inference_mode()
    def of_text(self, text: str) -> Tensor:
        """(w,) of length 1; what is beyond 77 tokens does not count."""
        given = self._words([text], truncation=True, max_length=TOKENS, return_tensors="pt")
        found = self._network.text_model(
            input_ids=given["input_ids"].to(device()), attention_mask=given["attention_mask"].to(device())
        )
        return F.normalize(self._network.text_projection(found.pooler_output), dim=-1)[0].cpu()

    @torch.inference_mode()
    def of_sound(self, sound: Tensor) -> Tensor:
        """(w,) of length 1, of a sound (n,) at 48 kHz. What is longer than 10 s is fused by a network that can, else
        heard in pieces that cover it, whose embeddings are averaged."""
        most = self._form.nb_max_samples
        if not self._fused:
            spectra = [(self._log_mel(repeated(piece, most))[None], False) for piece in pieces(sound, most)]
        else:
            mel, frames = self._log_mel(repeated(sound, most)), most // self._form.hop_length + 1
            longer = len(mel) > frames
            spectra = [(fused(mel, frames) if longer else mel.expand(4, -1, -1), longer)]
        found = [self._of_spectra(*one) for one in spectra]
        return F.normalize(torch.stack(found).mean(dim=0), dim=-1).cpu()

    def _of_spectra(self, spectra: Tensor, longer: bool) -> Tensor:
        found = self._network.audio_model(
            input_features=spectra[None].float().to(device()), is_longer=torch.tensor([[longer]], device=device())
        )
        return F.normalize(self._network.audio_projection(found.pooler_output), dim=-1)[0]

    def _log_mel(self, sound: Tensor) -> Tensor:
        """(t, m) decibels. Networks without fusion were trained on Slaney's filters, those with it on HTK's."""
        form = self._form
        filters = htk_filters if form.truncation == "fusion" else slaney_filters
        bank = filters(
            form.sampling_rate, form.fft_window_size, form.feature_size, form.frequency_min, form.frequency_max
        )
        bell = torch.hann_window(form.fft_window_size, dtype=torch.float64)
        power = torch.stft(
            sound.double(), form.fft_window_size, form.hop_length, window=bell, return_complex=True
        ).abs().square()  # fmt: skip
        return decibels(power.T @ bank)


def repeated(sound: Tensor, length: int) -> Tensor:
    """A sound as often as it fits into ``length`` in whole, then silence; a longer one as it is."""
    return sound if len(sound) >= length else padded(sound.repeat(length // len(sound)), length)


def pieces(sound: Tensor, length: int) -> list[Tensor]:
    """As few pieces of ``length`` as cover a sound, evenly; a shorter sound as it is."""
    count = math.ceil(len(sound) / length)
    starts = [round(i * (len(sound) - length) / (count - 1)) for i in range(count)] if count > 1 else [0]
    return [sound[start : start + length] for start in starts]


def fused(mel: Tensor, frames: int) -> Tensor:
    """(4, frames, m) of a spectrum (t, m) that is longer: all of it shrunk, and the middle of each third of the pieces
    that there are; the first piece where there are fewer than three."""
    whole = F.interpolate(mel[None, None], size=(frames, mel.shape[1]), mode="bilinear", antialias=True)[0, 0]
    thirds = torch.arange(len(mel) - frames + 1).tensor_split(3)
    starts = [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]
    return torch.stack([whole, *(mel[start : start + frames] for start in starts)])


class ClapScore:
    """CS, the cosine of a sound and its prompt, and FD, the Frechet distance of the set from its ground truth, both by
    CLAP; sounds are brought to a peak of -1 dBFS and to 16 bits, as Verse-Bench's tool does.

    official: the first audio prompt alone; FD of each clip from its ground truth, in the mean, which is next to the
              square of their distance (``distance_of_two``).
    fixed:    all audio prompts as one text, for all of them are to be heard; FD of the set.
    """

    view = View(sample_rate_hz=RATE_HZ, modalities=("audio",))

    def __init__(self, assets: Assets, weights: str, rules: Rules) -> None:
        self._assets, self._weights, self._official = assets, weights, rules == "official"
        page = "https://huggingface.co/laion/clap-htsat-fused"
        self.needs = (
            need_asset(assets, weights, "Apache-2.0", page),
            need_package("transformers", "Apache-2.0", page, "pip install 'ovikit[ovi]'"),
        )
        self.version = f"{VERSION}/{rules}/{digest_of(assets, self.needs[0])}"
        self._texts: dict[str, Tensor] = {}
        self.metrics = (
            MetricSpec(
                "cs", "higher", "", (-1.0, 1.0), self.version,
                "cosine of the sound with the first audio prompt (CLAP)" if self._official
                else "cosine of the sound with all audio prompts as one text (CLAP)",
            ),
            MetricSpec(
                "fd_clap", "lower", "", (0.0, math.inf), self.version,
                "squared distance of each clip from its ground truth, of CLAP's features, which the tool takes for a "
                "Frechet distance" if self._official
                else "Frechet distance of the set from its ground truth, of CLAP's 512 features; sets of fewer than "
                "about 512 items read too far",
            ),
        )  # fmt: skip

    @cached_property
    def _clap(self) -> Clap:
        return Clap(self._assets.path(self._weights))

    def features(self, clip: Clip) -> dict[str, Any]:
        why = why_unheard(clip, 0.0 if self._official else QUIETEST)
        if why is not None or clip.audio is None:
            return {"why": why}
        rounded = (at_peak(clip.audio.float()) * LEVELS).trunc() / LEVELS
        return {"why": None, "embedding": plain(self._clap.of_sound(rounded))}

    def leaves_out(self, item: PromptItem) -> str | None:
        if item.truth.get("subset", CS_SETS[0]) not in CS_SETS:
            return "CS is of sets 1 and 2"
        return None if _heard(item) else "it has no audio prompt"

    def metric_leaves_out(self, metric: str, item: PromptItem) -> str | None:
        return of_another_set(item) if metric == "fd_clap" else None

    def score(self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem) -> dict[str, Score]:
        return self.compare(video, audio, NO_TRUTH, item)

    def compare(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], truth: Mapping[str, Any] | Unscored, item: PromptItem
    ) -> dict[str, Score]:
        if audio["why"] is not None:
            return {metric.name: Unscored(audio["why"]) for metric in self.metrics}
        return {"cs": self._fit(audio, item), "fd_clap": self._distance(audio, truth)}

    def _fit(self, audio: Mapping[str, Any], item: PromptItem) -> float | Unscored:
        prompts = _heard(item)
        if not prompts:
            return Unscored("it has no audio prompt", asked=False)
        text = prompts[0] if self._official else " ".join(_sentence(one) for one in prompts)
        if text not in self._texts:
            self._texts[text] = self._clap.of_text(text)
        cosine = F.cosine_similarity(torch.tensor(audio["embedding"]).double(), self._texts[text].double(), dim=0)
        return max(-1.0, min(1.0, float(cosine)))

    def _distance(self, audio: Mapping[str, Any], truth: Mapping[str, Any] | Unscored) -> Score:
        true = known_truth(truth)
        if isinstance(true, Unscored):
            return true
        both = torch.tensor(audio["embedding"]), torch.tensor(true["embedding"])
        return distance_of_two(*both) if self._official else Part(both)

    def pool(self, name: str, parts: Sequence[Any]) -> float | Unscored:
        return set_distance(parts)


def _heard(item: PromptItem) -> Sequence[str]:
    return item.truth.get("audio_prompts") or ()


def _sentence(text: str) -> str:
    """A prompt as a sentence; as the one prompt of all has them."""
    return text if text.endswith((".", "!", "?")) or not text else f"{text}."
