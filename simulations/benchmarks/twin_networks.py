"""Separator, editor, prior network and codebook, of the preset ``ptbxl``."""

from __future__ import annotations

from typing import Any

import torch
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn import functional as F

from lavq_core.errors import ConfigError
from lavq_core.models.codebook import code_statistics, commitment_loss, initial_codebook, quantise
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.models.twins import Patients, Twins, request_twins
from lavq_core.settings import Config
from lavq_core.signals.leads import to_twelve
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.separator_training import SeparatorTrainer
from simulations.benchmarks.harness import Pair, Way
from simulations.benchmarks.setting import Setting, generator

_TWINS = 50
_DISEASE = ["IMI"]


def separator_step(setting: Setting) -> Pair:
    """Training steps of separator, editor and prior network, per pair of records; the reference takes pair by pair."""
    batch = setting.many(setting.config().separator_training.batch)
    together, alone = _trainer(setting), _trainer(setting)
    sick, healthy = _pairs(setting, batch)
    few = setting.many(6, 1)

    def ours() -> list[dict[str, float]]:
        return [together.step(sick, healthy)]

    def one_pair_at_a_time() -> list[dict[str, float]]:
        return [alone.step(sick.take(torch.tensor([i])), healthy.take(torch.tensor([i]))) for i in range(few)]

    def same(mine: list[dict[str, float]], plain: list[dict[str, float]]) -> bool:
        return set(mine[0]) == set(plain[0])  # the same losses; their values depend on who shares a batch

    return Pair(Way(ours, batch), Way(one_pair_at_a_time, few), same)


def _trainer(setting: Setting) -> SeparatorTrainer:
    config = setting.config()
    judge = build_detector(config.detector, config.data.sampling_rate, 0).differentiable.eval().requires_grad_(False)
    codebook = initial_codebook(config.codebook, beat_tokens(config), 0)
    networks = make_networks(config, 0).train()
    return SeparatorTrainer(networks, codebook, judge, config, generator(), total=1000)


def _pairs(setting: Setting, count: int) -> tuple[GuidedBeats, GuidedBeats]:
    """Abnormal and NORM-only beats, ``count`` of each."""
    data = setting.site.beats
    sick, healthy = (rows[torch.arange(count) % len(rows)] for rows in (data.abnormal(), data.norm_only()))
    return data.take(sick), data.take(healthy)


def twins_100(setting: Setting) -> Pair:
    """50 twins of one ECG at 100 Hz, from its samples to twelve leads; the reference makes them one by one."""
    return _twins(setting, setting.config(), setting.ecgs(1)[0])


def twins_500(setting: Setting) -> Pair:
    """The same at 500 Hz."""
    signal = resample_poly(setting.ecgs(1)[0].numpy(), 5, 1, axis=-1).astype("float32")
    return _twins(setting, setting.config("data.sampling_rate=500", "separator.stride=20"), torch.from_numpy(signal))


def _twins(setting: Setting, config: Config, signal: Tensor) -> Pair:
    networks = make_networks(config, 0)
    codes = initial_codebook(config.codebook, beat_tokens(config), 0)["codes"]
    count = setting.many(_TWINS)
    few = setting.many(_TWINS // 5)

    def make(number: int, seed: int) -> Tensor:
        patient = Patients.of_one("bench", signal, 60.0, 1.0, config).take(torch.zeros(number, dtype=torch.int64))
        made: Twins = request_twins(networks, codes, patient, [_DISEASE] * number, config, 1.0, generator(seed))
        return to_twelve(made.signal)  # (number, 12, T)

    def one_by_one() -> Tensor:
        return torch.cat([make(1, seed) for seed in range(few)])

    def same(mine: Tensor, plain: Tensor) -> bool:
        # Draws of a batch are others than draws one by one; the first of one alone is the same.
        return mine.shape[1:] == plain.shape[1:] and torch.allclose(plain[0], make(1, 0)[0], atol=1e-5)

    return Pair(Way(lambda: make(count, 0), count), Way(one_by_one, few), same)


def codebook(setting: Setting) -> Pair:
    """Quantising, commitment and the statistics of a batch; the reference is ``vector-quantize-pytorch``."""
    config = setting.config().codebook
    state = initial_codebook(config, beat_tokens(setting.config()), 0)
    latents = torch.randn(setting.many(2048), beat_tokens(setting.config()), config.dim, generator=generator())
    everywhere = torch.ones(latents.shape[:2], dtype=torch.bool)  # (B, N)
    reference = _vector_quantize(config.dim, config.size)

    def ours() -> dict[str, Tensor]:
        quantised, indices = quantise(latents, state["codes"])
        loss = commitment_loss(latents, state["codes"], everywhere.float())
        fresh = code_statistics(latents, indices, everywhere, config.size)
        codes = F.normalize(fresh["sums"], dim=-1)
        return {"indices": indices, "quantised": quantised, "loss": loss, "codes": codes, "counts": fresh["counts"]}

    def vector_quantize_pytorch() -> dict[str, Tensor]:
        book = reference._codebook
        with torch.no_grad():
            book.embed.copy_(state["codes"][None])
            book.embed_avg.zero_()
            book.cluster_size.zero_()
        quantised, indices, loss = reference(F.normalize(latents, dim=-1))
        return {
            "indices": indices, "quantised": quantised, "loss": loss, "codes": book.embed[0].clone(),
            "counts": book.cluster_size[0].clone(),
        }  # fmt: skip

    def same(mine: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
        alike = (mine["indices"] == other["indices"]).float().mean() > 0.9999  # a tie may fall either way
        used = other["counts"] > 1
        codes = torch.allclose(mine["codes"][used], other["codes"][used], atol=1e-3)
        return bool(alike) and codes and torch.allclose(mine["counts"], other["counts"], atol=2.0)

    tokens = everywhere.numel()
    return Pair(Way(ours, tokens), Way(vector_quantize_pytorch, tokens), same)


def _vector_quantize(dim: int, size: int) -> Any:
    """Make the library's codebook of unit vectors whose moving average keeps nothing: fresh sums at every call."""
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ModuleNotFoundError:
        raise ConfigError(
            "vector-quantize-pytorch, the codebook's reference, is not installed: pip install it, or choose with --only"
        ) from None
    book = VectorQuantize(dim, codebook_size=size, use_cosine_sim=True, decay=0.0, rotation_trick=False)
    book.train()
    return book
