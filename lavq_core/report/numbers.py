"""The numbers of ``metrics.json``: read, found by site, and written into HTML with the key each came from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from markupsafe import Markup

from lavq_core.errors import RunError
from lavq_core.runs.layout import RunFolder

Value = float | int | str

MISSING = Markup('<span class="missing">not recorded</span>')
_SITE_KEYS = (
    re.compile(r"data\.site\.(.+)\.(?:records|patients|rejected|flagged|train|test|held_out)"),
    re.compile(r"convergence\.site\.(.+)\.round\.\d+\.\w+"),
    re.compile(r"macro_auc\.site\.(.+?)(?:\.(?:low|high|n))?"),
)
_SUBGROUP_KEY = re.compile(r"macro_auc\.(sex|age|device)\.(.+?)(?:\.(?:low|high|n))?")
_SCORE = re.compile(r"auc|auprc|ece|brier|sensitivity|specificity|temperature|threshold|reliability|gallery\.site")
_SHARE = re.compile(r"(^|[._])(tpr|fpr|gate)_\w+")


class Metrics:
    """A run's flat metrics, with the report's way of writing each."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = dict(values)

    @classmethod
    def read(cls, run: RunFolder) -> Metrics:
        """Read ``RUN/metrics.json``.

        Raises:
            RunError: it is missing, or is not a flat JSON object of numbers and strings.
        """
        if not run.metrics.is_file():
            raise RunError(
                f"{run.root} has no metrics.json: the run did not finish, so there is nothing to report; "
                "read its events.jsonl for the reason and run it again"
            )
        try:
            values = json.loads(run.metrics.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{run.metrics} is not JSON ({error}): run it again or restore the file") from error
        flat = isinstance(values, dict) and all(isinstance(value, (int, float, str)) for value in values.values())
        if not flat:
            raise RunError(
                f"{run.metrics} is not a flat object of numbers and strings: run it again or restore the file"
            )
        return cls(values)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str) -> Value | None:
        """Return a value as it is in the file, None where the file has none."""
        return self.values.get(key)

    def sites(self) -> list[str]:
        """Return the hospitals' names, numbers inside them in numerical order."""
        names = {match[1] for key in self.values for pattern in _SITE_KEYS if (match := pattern.fullmatch(key))}
        return sorted(names, key=natural)

    def worst(self) -> list[str]:
        """Return the hospital of the lowest macro AUC, or several of the same."""
        lowest = self.get("macro_auc.worst_site")
        return [site for site in self.sites() if lowest is not None and self.get(f"macro_auc.site.{site}") == lowest]

    def subgroups(self) -> list[tuple[str, str]]:
        """Return ``(kind, name)`` of the subgroups that have a macro AUC: by sex, by age, by device."""
        found = {(match[1], match[2]) for key in self.values if (match := _SUBGROUP_KEY.fullmatch(key))}
        order = ("sex", "age", "device")
        return sorted(found, key=lambda group: (order.index(group[0]), _lowest(group[1]), group[1]))

    def named(self, prefix: str) -> list[str]:
        """Return what stands behind a prefix, in order."""
        return sorted(key.removeprefix(prefix) for key in self.values if key.startswith(prefix))

    def rounds(self, site: str, quantity: str) -> list[tuple[float, float]]:
        """Return one site's curve ``[(round, value), ...]`` in order of rounds, without values that are not finite."""
        pattern = re.compile(rf"convergence\.site\.{re.escape(site)}\.round\.(\d+)\.{re.escape(quantity)}")
        curve = [
            (float(match[1]), float(value))
            for key, value in self.values.items()
            if (match := pattern.fullmatch(key)) and not isinstance(value, str) and math.isfinite(value)
        ]
        return sorted(curve)

    def number(self, key: str) -> Markup:
        """Write one value, with its key and exact value in the markup; "not recorded" where the file has none."""
        if key not in self.values:
            return MISSING
        value = self.values[key]
        exact = value if isinstance(value, str) else json.dumps(value)
        return Markup('<data data-key="{}" value="{}">{}</data>').format(key, exact, display(key, value))

    def interval(self, key: str) -> Markup:
        """Write a value's interval ``low–high``; nothing where the file has none."""
        if f"{key}.low" not in self.values or f"{key}.high" not in self.values:
            return Markup("")
        return Markup("{}–{}").format(self.number(f"{key}.low"), self.number(f"{key}.high"))

    def bins(self, where: str) -> list[tuple[float, float, float, float]]:
        """Return a diagram, of ``pooled`` or ``site.NAME``: said, happened, and its interval, by probability."""
        keys = [f"reliability.{where}.bin.{name}" for name in self.bin_names(where)]
        parts = (".said", ".happened", ".happened.low", ".happened.high")
        return [tuple(float(self.values[key + part]) for part in parts) for key in keys]  # type: ignore[misc]

    def bin_names(self, where: str) -> list[str]:
        """Return the names of a diagram's bins, in order."""
        return self.between(f"reliability.{where}.bin.", ".said")

    def between(self, prefix: str, suffix: str) -> list[str]:
        """Return what stands between a prefix and a suffix, numbers in it in numerical order."""
        found = [name.removesuffix(suffix) for name in self.named(prefix) if name.endswith(suffix)]
        return sorted(found, key=natural)

    def steps(self, prefix: str) -> list[str]:
        """Return the rounds ``R`` of keys ``PREFIX...round.R``, in order."""
        return sorted({name.rpartition(".round.")[2] for name in self.named(prefix) if ".round." in name}, key=natural)

    def below(self, prefix: str) -> bool:
        """Tell whether any key starts with ``prefix``."""
        return any(key.startswith(prefix) for key in self.values)


def display(key: str, value: Value) -> str:
    """Write a value as a reader expects it: shares in per cent, sizes in MB, times in minutes, scores to .001."""
    if isinstance(value, str):
        return moment(value) if key == "run.created" else value
    if not math.isfinite(value):
        return "not defined"
    if "bytes" in key:
        return size(value)
    if key.endswith("seconds"):
        return duration(value)
    if key == "privacy.delta":
        return f"{value:g}"
    if _SHARE.search(key):
        return f"{100 * value:.1f}\u00a0%"
    if float(value).is_integer() and not _is_score(key):
        return f"{int(value):,}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def size(count: float) -> str:
    """Write a number of bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f}\u00a0{unit}"
    return f"{count:.0f}\u00a0bytes"


def duration(seconds: float) -> str:
    """Write a time."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(time: str) -> str:
    """Write an ISO 8601 time as people read it; anything else stays as it is."""
    try:
        parsed = datetime.fromisoformat(time)
    except ValueError:
        return time
    zone = "" if parsed.tzinfo is None else " UTC"
    return f"{parsed if parsed.tzinfo is None else parsed.astimezone(UTC):%Y-%m-%d %H:%M:%S}{zone}"


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``site-2`` before ``site-10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _lowest(band: str) -> float:
    """Where an age band begins: "<50" before "50-64"."""
    number = re.search(r"\d+", band)
    return -1.0 if band.startswith("<") or number is None else float(number[0])


def _is_score(key: str) -> bool:
    """A score of exactly 1 is written 1.000, not as a count."""
    return _SCORE.search(key) is not None and not key.endswith(".n")
