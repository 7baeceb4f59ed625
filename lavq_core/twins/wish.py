"""What somebody asks for who wants twins of one ECG."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lavq_core.errors import ConfigError

SEX = {"male": 0.0, "female": 1.0, "unknown": math.nan}
"""What a sex is called, and the number that the networks read."""


@dataclass(frozen=True)
class Wish:
    """A request for twins.

    Raises:
        ConfigError: a value out of range, named by the field.
    """

    disease: str  # a superclass, or SCP statements joined with "+"
    count: int = 1  # different twins
    strength: float = 1.0  # dose of the disease, 0 to 1
    age: float = math.nan  # years, NaN where unknown
    sex: str = "unknown"  # of ``SEX``
    rate: float = 1.0  # heart rate times this
    seed: int = 0  # another seed, other twins
    name: str = ""  # what files and pictures call the original; empty: a code, for a file's name can be a person's

    def __post_init__(self) -> None:
        wrong = [
            (self.count < 1, "count must be at least 1"),
            (not 0.0 <= self.strength <= 1.0, "strength must lie between 0 and 1"),
            (not self.rate > 0.0, "rate must be above 0"),
            (self.age < 0.0, "age must not be negative"),
            (self.sex not in SEX, f"sex must be one of {', '.join(SEX)}"),
            (not 0 <= self.seed < 2**63, "seed must be a whole number from 0 to 2^63 - 1"),
            (not re.fullmatch(r"[A-Za-z0-9_-]*", self.name), "name may hold letters, digits, - and _ only"),
        ]
        for bad, message in wrong:
            if bad:
                raise ConfigError(message)

    @property
    def conditions(self) -> list[str]:
        """What was asked for beside the disease, in words."""
        given = [
            (self.rate != 1.0, f"heart rate times {self.rate:g}"),
            (not math.isnan(self.age), f"age {self.age:g}"),
            (self.sex != "unknown", self.sex),
        ]
        return [words for told, words in given if told]
