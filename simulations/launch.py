"""What ``lavq run`` and ``lavq demo`` have in common: settings, folders and data checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.models.pretrained import weights_sha256
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from simulations import sample
from simulations.partitions import partition

SAMPLE = sample.FOLDER


def prepare(overrides: Sequence[str], data: str | None, out: str | None, prefix: str) -> tuple[list[str], Config]:
    """Compose the configuration, make its folders absolute, and open the data once.

    Opening packs the signals, so that a fault shows here, in one line, and not in four hospitals at once.

    Args:
        overrides: the user's.
        data: folder in PTB-XL's layout; None leaves ``data.dir``, or the bundled sample.
        out: run folder; None leaves ``run.dir``, or makes ``runs/PREFIX-TIME``.
        prefix: of that folder's name.

    Returns:
        Complete overrides, and the configuration they compose to.

    Raises:
        LavqError: a setting or the data cannot be used.
    """
    given = compose(overrides)
    folder = Path(data or given.data.dir or SAMPLE).expanduser().resolve()
    default = Path("runs") / f"{prefix}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    run = Path(out or given.run.dir or default).expanduser().resolve()
    complete = [*overrides, f"data.dir={quoted(folder)}", f"run.dir={quoted(run)}", *_pretrained(given)]
    config = compose(complete)
    database = Database.configured(config.data)
    partition(database.table, config.partition.scheme, config.federation.sites, config.partition.seed)
    return complete, config


def _pretrained(config: Config) -> list[str]:
    """Settings that name what was trained on public ECGs: absolute folders, and the network's sha256."""
    made = []
    if config.detector.pretrained:
        network = RunFolder.open(config.detector.pretrained)
        sha256 = config.detector.pretrained_sha256 or weights_sha256(network)
        made += [f"detector.pretrained={quoted(network.root)}", f"detector.pretrained_sha256={sha256}"]
    if config.detector.start:
        made.append(f"detector.start={quoted(RunFolder.open(config.detector.start).root)}")
    return made


def quoted(path: Path) -> str:
    """Write a path as a quoted value of a Hydra override."""
    return "'" + str(path).replace("'", "\\'") + "'"
