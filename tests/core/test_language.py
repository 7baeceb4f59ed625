from __future__ import annotations

import pytest

from lavq_core.text.language import NONE, UNKNOWN, language_of


@pytest.mark.parametrize(
    ("report", "language"),
    [
        ("sinus rhythm. voltages are high in limb leads suggesting lvh. otherwise normal ecg.", "English"),
        ("sinusrhythmus linkstyp qrs(t) abnorm inferiorer infarkt alter unbest. 4.46", "German"),
        ("VENTRIKULÄRE EXTRASYSTOLE(N) SINUS ARRHYTHMIE", "German"),
        ("sinusrytm normalt ekg", "Swedish"),
        ("infarkt 4.46", UNKNOWN),
        ("rhythm und", UNKNOWN),
        (" 4.46 ", NONE),
        ("", NONE),
    ],
)
def test_a_report_is_in_the_language_whose_words_it_has(report: str, language: str) -> None:
    assert language_of(report) == language
