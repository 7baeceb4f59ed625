"""What a hospital permits, in a TOML file on its own disk: no server, setting or app can override it.

Who enforces what:

- ``apps``: the launcher (``client.launcher``) compares the sha256 of a bundle with this list before anything of the
  bundle is installed or imported, so a foreign app never runs. An app that was started in another way is refused by
  ``open_site`` before the database is opened.
- ``outgoing`` and ``minimum_patients``: ``open_site`` before a round, and the ClientApp once more on the very reply.
- ``epsilon_max``: the site's privacy ledger.
- ``log``: the site's event log. It never leaves the site, but more people may read a log than a database.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from lavq_core.errors import ConfigError, PolicyError
from lavq_core.settings import SHAREABLE, Config
from server import packing

PARTS = ("detector", "codebook", *SHAREABLE, "moments")
"""What may leave a site at all; ``client.app`` says what each is."""

APP_HASH = "LAVQ_APP_HASH"
"""Environment variable in which the launcher says which bundle it has checked."""

UNLIMITED = "unlimited"
_LEDGER = ("ledger.head", "ledger.epsilon", "ledger.delta")  # of private training; none of it depends on a patient
_ALWAYS = ("site.name", "metrics.num-examples", *_LEDGER)  # without a pseudonym and a count no reply means anything
_MEASURES = ("event", "round", "fold", "error", "seconds", "records")  # of an event, where scores are not to be logged
_KEYS = {"epsilon_max", "apps", "outgoing", "minimum_patients", "log"}
_LOG_KEYS = {"measures", "tracebacks"}


@dataclass(frozen=True)
class SitePolicy:
    """The rules of one site; without arguments those of a simulated one, which permits everything.

    Attributes:
        epsilon_max: the site takes part in private training only, and in no round after which its patients' epsilon
            would be larger; None: no bound, and training without privacy is permitted.
        apps: sha256 of the app bundles that may run here; None: any.
        outgoing: parts that may leave, of ``PARTS``.
        minimum_patients: fewer patients in the training folds, and the site does not train.
        log_measures: losses and scores may be written to the site's event log.
        log_tracebacks: so may whole tracebacks, whose texts can name a patient.
    """

    epsilon_max: float | None = None
    apps: frozenset[str] | None = None
    outgoing: frozenset[str] = field(default=frozenset(PARTS))
    minimum_patients: int = 0
    log_measures: bool = True
    log_tracebacks: bool = True

    @classmethod
    def load(cls, path: str | Path) -> SitePolicy:
        """Read a policy file. Every key must be there: what is not said is not permitted.

        Raises:
            ConfigError: no such file, or one that is not a whole policy.
        """
        path = Path(path).expanduser()
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"the site policy {path} cannot be read ({error.strerror}): write one") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"the site policy {path} is not TOML: {error}") from None
        log = given.get("log")
        wrong = _wrong_keys(given, _KEYS, "") or (_wrong_keys(log, _LOG_KEYS, "log.") if isinstance(log, dict) else "")
        if wrong:
            raise ConfigError(f"the site policy {path} {wrong}")
        for key, (holds, wanted) in _checks(given).items():
            if not holds:
                raise ConfigError(f"the site policy {path}: {key} must be {wanted}")
        return cls(
            epsilon_max=None if given["epsilon_max"] == UNLIMITED else float(given["epsilon_max"]),
            apps=frozenset(given["apps"]),
            outgoing=frozenset(given["outgoing"]),
            minimum_patients=given["minimum_patients"],
            log_measures=given["log"]["measures"],
            log_tracebacks=given["log"]["tracebacks"],
        )

    def require_app(self, digest: str) -> None:
        """Make sure that a bundle may run here.

        Raises:
            PolicyError: its sha256 is not on the list.
        """
        if self.apps is not None and digest not in self.apps:
            raise PolicyError(f"this site's policy does not list the app {digest or 'without a checked bundle'}")

    def require_launched(self) -> None:
        """Make sure that the running app came through the site's launcher, which has checked its bundle.

        Raises:
            PolicyError: it did not, or its bundle is not on the list.
        """
        self.require_app(os.environ.get(APP_HASH, ""))

    def require_settings(self, config: Config) -> None:
        """Make sure, before data is opened, that a run of these settings is one to take part in.

        Raises:
            PolicyError: it is not private and there is a limit of epsilon, or it would send what may not leave.
        """
        if self.epsilon_max is not None and config.privacy.epsilon == 0:
            raise PolicyError("this site takes part in private training only (its policy sets epsilon_max)")
        moments = ("moments",) if config.federation.average_moments else ()
        self._require({"detector", "codebook", *config.federation.share, *moments})

    def require_patients(self, patients: int) -> None:
        """Make sure that there are enough patients to train on.

        Raises:
            PolicyError: there are not.
        """
        if patients < self.minimum_patients:
            raise PolicyError(f"this site trains with {self.minimum_patients} patients or more")

    def require_may_leave(self, content: RecordDict) -> None:
        """Look at a reply itself, whatever made it: every array, number and text in it must be permitted.

        Raises:
            PolicyError: something is not.
        """
        self._require(parts_of(content))

    def loggable(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out of an event what may not be logged."""
        kept = {key: value for key, value in fields.items() if self.log_tracebacks or key != "traceback"}
        if not self.log_measures:
            kept = {key: value for key, value in kept.items() if key in (*_MEASURES, "traceback")}
        return kept

    def _require(self, parts: set[str]) -> None:
        forbidden = sorted(parts - self.outgoing)
        if forbidden:
            raise PolicyError(f"this site's policy does not let out: {', '.join(forbidden)}")


def parts_of(content: RecordDict) -> set[str]:
    """Name what a reply holds: parts, the single networks in ``networks``, and other records key by key.

    Raises:
        PolicyError: what should be packed tensors holds something else, or more.
    """
    parts = set()
    for name, record in content.items():
        if name == packing.PARTS and isinstance(record, ArrayRecord):
            for part, state in _packed(record).items():
                parts |= {key.split(".")[0] for key in state} if part == "networks" else {part}
        else:
            parts |= {f"{name}.{key}" for key in record} or {str(name)}
    return parts - set(_ALWAYS)


def _packed(record: ArrayRecord) -> packing.Parts:
    try:
        return packing.unpack(record)
    except ValueError:
        raise PolicyError("this site lets out packed tensors alone, and the reply holds something else") from None


def _wrong_keys(given: Mapping[str, Any], known: set[str], prefix: str) -> str:
    missing, unknown = sorted(known - given.keys()), sorted(given.keys() - known)
    if missing:
        return f"does not say {', '.join(prefix + key for key in missing)}: it must say everything"
    return f"has unknown keys: {', '.join(prefix + key for key in unknown)}" if unknown else ""


def _checks(given: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
    epsilon, log = given["epsilon_max"], given["log"]
    number = isinstance(epsilon, int | float) and not isinstance(epsilon, bool)
    texts = {key: isinstance(given[key], list) and all(isinstance(v, str) for v in given[key]) for key in _LISTS}
    return {
        "epsilon_max": (number and epsilon > 0 if number else epsilon == UNLIMITED, f'above 0, or "{UNLIMITED}"'),
        "apps": (
            texts["apps"] and all(re.fullmatch("[0-9a-f]{64}", app) for app in given["apps"]),
            "a list of sha256 in lower-case hexadecimals",
        ),
        "outgoing": (texts["outgoing"] and set(given["outgoing"]) <= set(PARTS), f"a list out of {', '.join(PARTS)}"),
        "minimum_patients": (
            type(given["minimum_patients"]) is int and given["minimum_patients"] >= 0,
            "a whole number, 0 or more",
        ),
        "log": (
            isinstance(log, dict) and all(isinstance(value, bool) for value in log.values()),
            "a table with measures and tracebacks, true or false",
        ),
    }


_LISTS = ("apps", "outgoing")
