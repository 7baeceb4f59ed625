"""Which language an ECG report is in, told by words that the others do not have."""

from __future__ import annotations

import re

_WORDS = {
    "English": "and or with the is are be to of rhythm left right waves wave otherwise leads axis only",
    "German": "und oder bei mit der die nicht kein sinusrhythmus lagetyp linkstyp rechtstyp steiltyp abnorm möglich "
    "wahrscheinlich bericht unbestätigter ableitungen alter verdacht unspezifisches ventrikuläre",
    "Swedish": "och eller vid med ej vänster höger såsom avvikande sinusrytm normalt förlopp skänkelblock",
}
_BY_WORD = {word: language for language, words in _WORDS.items() for word in words.split()}
UNKNOWN, NONE = "unknown", "no report"


def language_of(report: str) -> str:
    """Return English, German or Swedish, ``UNKNOWN`` where no word tells or two languages tie, ``NONE`` where empty."""
    words = re.findall(r"[^\W\d_]+", report.casefold())
    if not words:
        return NONE
    found = [_BY_WORD[word] for word in words if word in _BY_WORD]
    counts = sorted(((found.count(language), language) for language in set(found)), reverse=True)
    if not counts or (len(counts) > 1 and counts[0][0] == counts[1][0]):
        return UNKNOWN
    return counts[0][1]
