"""What is measured, beside what, and which figure is aimed at. The README's table is laid out after this list.

Aims are those of the project's own plan; a figure that misses one says so. Nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass

LAVQ_EDITOR_TWIN = 1 / 8.3  # s a twin of 4,096 samples, in batches of 50
LAVQ_EDITOR_PAIR = 0.69  # s a pair of records in training
LAVQ_EDITOR_BYTES = 217.8e6  # of weights that averaging it would send
"""Of LAVQ-Editor's released code (Hu et al. 2024), on one core, on another day and a machine of the same kind. It has
no licence, so it cannot be brought along and run here."""


@dataclass(frozen=True)
class Aim:
    """A figure to reach."""

    value: float
    at_most: bool = False

    def met(self, figure: float) -> bool:
        """Tell whether a figure reaches it."""
        return figure <= self.value if self.at_most else figure >= self.value

    def __str__(self) -> str:
        """Write it as a table shows it."""
        return f"{'<=' if self.at_most else '>='} {self.value:g}"


@dataclass(frozen=True)
class Compared:
    """Ours beside a reference in the same run.

    Where the aim is an upper bound, the ratio is our time over the reference's (what it costs); else the reference's
    over ours (how many times as fast).
    """

    name: str
    what: str
    unit: str
    reference: str
    aim: Aim | None = None
    constant: float | None = None  # s a unit, measured elsewhere and on another day: a row of its own
    constant_aim: Aim | None = None

    @property
    def is_cost(self) -> bool:
        """Tell whether the ratio is a cost."""
        return self.aim is not None and self.aim.at_most


COMPARED = (
    Compared("batches", "random batches of 64, float32 mV", "record", "wfdb loop", Aim(300)),
    Compared("packing", "first packing of a database, checks included", "record", "wfdb loop, same checks", Aim(20)),
    Compared("gate", "quality gate", "record", "plain loop over records"),
    Compared("beats", "beat frame", "record", "one record at a time"),
    Compared("description", "fixed description", "record", "one record at a time"),
    Compared("detector-training", "detector training, as configured", "record", "`resnet1d_wang`", Aim(5)),
    Compared("detector-inference", "detector inference, description included", "record", "`resnet1d_wang`"),
    Compared("detector-batching", "detector inference, 256 at a time", "record", "the same network, one at a time"),
    Compared("codebook", "codebook: quantise, commitment, statistics", "token", "`vector-quantize-pytorch`"),
    Compared(
        "separator-training", "separator, editor and prior training", "pair of records", "pair by pair",
        None, LAVQ_EDITOR_PAIR, Aim(100),
    ),
    Compared(
        "twins-100hz", "50 twins of one ECG, 12 leads x 10 s, 100 Hz", "twin", "one by one",
        None, LAVQ_EDITOR_TWIN, Aim(100),
    ),
    Compared("twins-500hz", "... 500 Hz", "twin", "one by one", None, LAVQ_EDITOR_TWIN, Aim(30)),
    Compared("dp-step-opacus", "patient-level DP step, residual detector", "patient", "Opacus hooks"),
    Compared("bootstrap", "bootstrap of the macro AUC", "draw", "scikit-learn loop"),
    Compared("shadows", "shadow detectors of the audit, a core each (2)", "shadow", "one after another"),
    Compared("aggregation", "merging the updates of 16 sites (FedAvg)", "site", "numpy loop"),
    Compared("dp-step", "patient-level DP step, residual detector", "patient", "plain step", Aim(1.5, True)),
    Compared("dp-separator", "... separator, editor and prior", "patient", "plain step", Aim(1.5, True)),
    Compared("round", "federated round, preset `sample`, 4 sites", "round", "local steps in a loop", Aim(1.05, True)),
    Compared("round-4", "... the shortest there is, 4 sites", "round", "local steps in a loop", Aim(1.05, True)),
    Compared("round-50", "... 50 sites", "round", "local steps in a loop", Aim(1.05, True)),
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A figure without a reference of its own."""

    arm: str
    metric: str
    what: str
    unit: str
    aim: Aim | None = None
    scale: float = 1.0  # by which the table divides


_MB, _GIB = 1e6, 2.0**30
FACTS = (
    Fact("start", "python.seconds", "a bare Python interpreter", "s"),
    Fact("start", "help.seconds", "`lavq --help`", "s", Aim(0.5, True)),
    Fact("start", "import.seconds", "`import lavq_core`", "s", Aim(1, True)),
    Fact("start", "first_use.seconds", "... and its functions for the first time (loads PyTorch)", "s"),
    Fact("report", "report.seconds", "report of a run of four hospitals, pictures included", "s"),
    Fact(
        "serving",
        "detect.per_second",
        "inference service on one core with its client, 64 ECGs a request",
        "ECGs/s",
        Aim(200),
    ),
    Fact("serving", "detect.p99_seconds", "... one ECG a request, 99th percentile", "ms", Aim(50, True), 1e-3),
    Fact("personalize", "personalize.seconds", "`lavq personalize`, models of the preset `ptbxl`", "s", Aim(20, True)),
    Fact("bytes", "bytes.down", "bytes down a round and site, preset `ptbxl`", "MB", scale=_MB),
    Fact("bytes", "bytes.up", "bytes up a round and site, preset `ptbxl`", "MB", scale=_MB),
    Fact("bytes", "lavq-editor.ratio", "... both, as a share of averaging LAVQ-Editor's weights", "1 /", Aim(100)),
    Fact("memory", "sample.peak_bytes", "peak memory, a round of four hospitals, bundled sample", "GiB", scale=_GIB),
    Fact("memory", "data.peak_bytes", "peak memory, a round of four hospitals, all data", "GiB", Aim(3, True), _GIB),
)

GROWTHS = {
    "growth-batches": ("an epoch of random batches", "records"),
    "growth-sites": ("merging a round's detectors and codebooks", "sites"),
    "growth-inference": ("detector inference of a batch", "records"),
}
