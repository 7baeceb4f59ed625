"""What a composed configuration must satisfy beyond its types."""

from __future__ import annotations

from dataclasses import asdict
from operator import attrgetter

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError
from lavq_core.settings import DETECTORS, PRIVATE_CODEBOOKS, ROBUST, SCHEDULES, SHAREABLE, STRATEGIES, Config
from lavq_core.signals.beats import frame_length

_AT_LEAST_ONE = (
    "text.width", "codebook.dim", "separator.width", "separator.stride", "separator.heads", "separator_training.batch",
    "detector.width", "detector.blocks", "detector.kernel", "detector_training.batch",
    "federation.rounds", "federation.sites", "personal.twins", "personal.batch",
)  # fmt: skip
NOT_PRIVATE = ("identity", "usage", "wrong_report", "adversarial", "statements")
"""Losses of the separator that are none of one patient alone, see ``lavq_core.training.separator_losses``."""


def check(config: Config) -> None:
    """Refuse values that no run can use.

    Raises:
        ConfigError: names the setting and what it takes.
    """
    for name in _AT_LEAST_ONE:
        if attrgetter(name)(config) < 1:
            raise ConfigError(f"{name} must be at least 1")
    wrong = [
        (config.data.sampling_rate not in (100, 500), "data.sampling_rate must be 100 or 500"),
        (config.text.source not in ("statements", "report"), "text.source must be statements or report"),
        (config.run.device not in ("auto", "cpu", "cuda"), "run.device must be auto, cpu or cuda"),
        (
            not 1 <= config.federation.min_sites <= config.federation.sites,
            "federation.min_sites must lie between 1 and federation.sites",
        ),
        (
            config.federation.enough != 0
            and not config.federation.min_sites <= config.federation.enough <= config.federation.sites,
            "federation.enough must be 0 or lie between federation.min_sites and federation.sites",
        ),
        (config.federation.retries < 0, "federation.retries must not be negative"),
        (not 0.0 < config.separator.gate_threshold < 1.0, "separator.gate_threshold must lie between 0 and 1"),
        (
            not 0.0 <= config.separator_training.after <= config.twins.after < 1.0,
            "0 <= separator_training.after <= twins.after < 1 must hold: they are shares of the rounds",
        ),
        (not 0.0 <= config.twins.strength <= 1.0, "twins.strength must lie between 0 and 1"),
        (config.codebook.size < 2, "codebook.size must be at least 2"),
        (config.data.validation_fold == config.data.test_fold, "data.validation_fold and data.test_fold must differ"),
        (
            bool({config.data.validation_fold, config.data.test_fold} & set(config.data.train_folds)),
            "data.train_folds must leave out data.validation_fold and data.test_fold",
        ),
        (
            not set(config.federation.share) <= set(SHAREABLE),
            f"federation.share takes any of {', '.join(SHAREABLE)}",
        ),
        (
            any(item.split(":")[-1] not in SUPERCLASSES[1:] or ":" not in item for item in config.partition.withhold),
            f"partition.withhold takes SITE:CLASS, CLASS one of {', '.join(SUPERCLASSES[1:])}",
        ),
        (
            config.separator.stride % 4 != 0 or frame_length(config.data.sampling_rate) % config.separator.stride != 0,
            "separator.stride must be a multiple of 4 and divide the samples of a beat (.96 s)",
        ),
        (
            config.detector_training.schedule not in SCHEDULES,
            f"detector_training.schedule must be one of {', '.join(SCHEDULES)}",
        ),
        (
            not 0.0 <= config.detector_training.warmup < 1.0,
            "detector_training.warmup must lie between 0 and below 1",
        ),
        (not 0.0 <= config.detector_training.averaging <= 1.0, "detector_training.averaging must lie between 0 and 1"),
        (
            len(config.detector_training.positive_weights) not in (0, len(SUPERCLASSES))
            or min(config.detector_training.positive_weights, default=1.0) <= 0.0,
            f"detector_training.positive_weights takes a number above 0 for each of {', '.join(SUPERCLASSES)}",
        ),
        (not 0.0 <= config.detector_training.warp <= 0.2, "detector_training.warp must lie between 0 and 0.2 s"),
        (not 0.0 <= config.detector_training.tada <= 0.2, "detector_training.tada must lie between 0 and 0.2 s"),
        (
            config.audit.shadows < 6 or config.audit.shadows % 2 == 1,
            "audit.shadows must be even and at least 6: every patient is in half of the shadows, and a pair is left "
            "out when one of it is attacked",
        ),
        (not 0.0 < config.calibration.sensitivity <= 1.0, "calibration.sensitivity must lie above 0, up to 1"),
        (config.detector.kernel % 2 == 0, "detector.kernel must be odd"),
        (
            config.separator.width % config.separator.heads != 0,
            "separator.width must be a multiple of separator.heads",
        ),
    ]
    for bad, message in [*wrong, *_aggregation(config), *_privacy(config)]:
        if bad:
            raise ConfigError(message)


def _aggregation(config: Config) -> list[tuple[bool, str]]:
    """What is wrong with how sites train and the server aggregates: ``(is it, message)``."""
    federation, training = config.federation, config.detector_training
    robust, needed = federation.strategy in ROBUST, max(6, 2 * federation.malicious + 3)
    return [
        (
            training.epochs <= 0 or (training.steps == 0 and training.epochs != int(training.epochs)),
            "detector_training.epochs must be a whole number from 1, or any above 0 with detector_training.steps",
        ),
        (
            training.steps < 0 or 0 < training.steps < training.epochs,
            "detector_training.steps must be 0, or at least detector_training.epochs: a batch is epochs / steps of the "
            "records",
        ),
        (
            federation.strategy not in STRATEGIES,
            f"federation.strategy must be one of {', '.join(STRATEGIES)}",
        ),
        (federation.malicious < 1, "federation.malicious must be at least 1"),
        (
            robust and min(federation.sites, federation.min_sites) < needed,
            f"federation.strategy={federation.strategy} against {federation.malicious} bad sites needs {needed} good "
            f"replies a round: set federation.sites and federation.min_sites to {needed} or more, or take fedavg",
        ),
        (
            federation.strategy == "fedadam" and federation.average_moments,
            "federation.average_moments is for the sites' optimiser and fedadam is the server's own: choose one",
        ),
        (federation.proximal < 0 or federation.server_lr <= 0, "federation.proximal and server_lr must be positive"),
        (0 < federation.norm_cap < 1 or federation.norm_cap < 0, "federation.norm_cap must be 0, or at least 1"),
        (not 0 < federation.max_weight_share <= 1, "federation.max_weight_share must lie above 0 and up to 1"),
    ]


def _privacy(config: Config) -> list[tuple[bool, str]]:
    """What would leave a site un-noised, or cannot be accounted: ``(is it, message)``."""
    privacy, training, features = config.privacy, config.detector_training, config.detector.kind == "features"
    on = privacy.epsilon > 0
    return [
        (config.detector.kind not in DETECTORS, f"detector.kind must be one of {', '.join(DETECTORS)}"),
        (
            bool(config.detector.pretrained or config.detector.start) and not features,
            "detector.pretrained and detector.start are for detector.kind=features, whose head uses them",
        ),
        (
            features and training.steps == 0,
            "detector.kind=features needs detector_training.steps; epochs / steps of the patients take part in "
            "a step, all of them when both are equal",
        ),
        (
            features and config.federation.rounds < 2,
            "detector.kind=features needs federation.rounds=2 or more: the first finds the centre of the descriptions",
        ),
        (
            features and config.federation.average_moments,
            "federation.average_moments is for AdamW, which detector.kind=features does not use",
        ),
        (
            features and not on and config.separator_training.steps > 0,
            "detector.kind=features gives the separator no gradient to learn from: set separator_training.steps=0",
        ),
        (not 0.0 <= training.momentum < 1.0, "detector_training.momentum must lie between 0 and below 1"),
        (privacy.epsilon < 0 or privacy.epsilon_max < 0, "privacy.epsilon and epsilon_max must not be negative"),
        (on and not 0.0 < privacy.delta <= 0.01, "privacy.delta must lie above 0 and up to .01"),
        (on and privacy.clipping_norm <= 0, "privacy.clipping_norm must be positive"),
        (
            on and not features,
            "privacy.epsilon needs detector.kind=features: a resnet's gradients are not clipped per patient in this "
            "version (privacy=eps8, eps3 or eps1 sets what belongs together)",
        ),
        (not 0.0 < privacy.separator_share < 1.0, "privacy.separator_share must lie between 0 and 1"),
        (not 0.0 < privacy.separator_rate <= 1.0, "privacy.separator_rate must lie above 0 and up to 1"),
        (privacy.separator_clipping_norm <= 0, "privacy.separator_clipping_norm must be positive"),
        (
            privacy.codebook not in PRIVATE_CODEBOOKS,
            f"privacy.codebook must be one of {', '.join(PRIVATE_CODEBOOKS)}: a moving average of latents, or codes "
            "copied from them, would publish patients",
        ),
        *_private_separator(config),
        (
            on and config.federation.strategy == "fedprox",
            "federation.strategy=fedprox is not for detector.kind=features",
        ),
    ]


def _private_separator(config: Config) -> list[tuple[bool, str]]:
    """What of the separator's training touches several patients at once or is fed by data: ``(is it, message)``."""
    on = config.privacy.epsilon > 0 and config.separator_training.steps > 0
    coupled = [name for name in NOT_PRIVATE if asdict(config.separator_training.loss)[name] > 0]
    return [
        (
            on and bool(coupled),
            "privacy.epsilon needs "
            + " and ".join(f"separator_training.loss.{name}=0" for name in coupled)
            + ": these losses compare the patients of a batch, or learn from an opponent that is not private",
        ),
        (
            on and config.codebook.ema > 0,
            "privacy.epsilon needs codebook.ema=0: a moving average of the codes is fed by latents without noise "
            "(privacy.codebook says how codes are learned instead)",
        ),
    ]
