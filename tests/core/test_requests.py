from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.labels import SUPERCLASSES, superclass_of
from lavq_core.data.requests import Request, parse_request, statement_names
from lavq_core.errors import ConfigError

TABLE = pd.read_csv(Path(__file__).resolve().parents[2] / "simulations" / "sample" / "scp_statements.csv", index_col=0)
RHYTHMS = sorted(TABLE.index[TABLE["rhythm"] == 1])
UNSHOWN = ["PVC", "PAC", "PRC(S)", "2AVB", "3AVB"]


def classes(request: Request) -> set[str]:
    assert request.superclasses.shape == (5,)
    return {name for name, value in zip(SUPERCLASSES, request.superclasses, strict=True) if value == 1}


@pytest.mark.parametrize("name", SUPERCLASSES)
def test_a_superclass_is_a_request(name: str) -> None:
    request = parse_request(name, TABLE)
    assert request.name == name
    assert request.statements == ()
    assert classes(request) == {name}


@pytest.mark.parametrize(
    ("text", "statements", "expected"),
    [
        ("CLBBB", ("CLBBB",), {"CD"}),
        ("IMI+LAFB", ("IMI", "LAFB"), {"MI", "CD"}),
        ("NDT", ("NDT",), {"STTC"}),  # diagnostic and form
        ("INVT", ("INVT",), set()),  # form alone
        ("LVH+STD_", ("LVH", "STD_"), {"HYP"}),
        ("LAO/LAE", ("LAO/LAE",), {"HYP"}),
        ("WPW", ("WPW",), {"CD"}),
        ("1AVB", ("1AVB",), {"CD"}),
    ],
)
def test_statements_bring_their_superclasses(text: str, statements: tuple[str, ...], expected: set[str]) -> None:
    request = parse_request(text, TABLE)
    assert request.statements == statements
    assert classes(request) == expected


def test_order_case_spaces_and_repetition_do_not_matter() -> None:
    for text in ("LAFB+IMI", " lafb + imi ", "IMI+LAFB+imi"):
        request = parse_request(text, TABLE)
        assert request.name == "IMI+LAFB"
        assert request.statements == ("IMI", "LAFB")
    assert parse_request("mi", TABLE).name == "MI"
    assert parse_request("MI+mi", TABLE).name == "MI"


@settings(deadline=None)
@given(st.lists(st.sampled_from(list(statement_names(TABLE))), min_size=1, max_size=4))
def test_a_name_asks_for_itself(codes: list[str]) -> None:
    request = parse_request("+".join(codes), TABLE)
    again = parse_request(request.name, TABLE)
    assert set(request.statements) == set(codes)
    assert (again.name, again.statements) == (request.name, request.statements)
    np.testing.assert_array_equal(again.superclasses, request.superclasses)
    assert classes(request) == {superclass_of(TABLE)[code] for code in codes if code in superclass_of(TABLE)}


@pytest.mark.parametrize("code", RHYTHMS)
def test_a_rhythm_is_refused(code: str) -> None:
    with pytest.raises(ConfigError, match=r"is a rhythm: a twin keeps the patient's own R peaks.*; choose one of MI, "):
        parse_request(code, TABLE)


@pytest.mark.parametrize("code", UNSHOWN)
def test_what_differs_from_beat_to_beat_is_refused(code: str) -> None:
    with pytest.raises(
        ConfigError, match=r"a twin changes every beat alike.*cannot show it; choose one of MI, "
    ) as caught:
        parse_request(f"IMI+{code}", TABLE)
    assert str(caught.value).startswith(f"{code} ({TABLE.at[code, 'description']})")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "near"),
    [("LBBB", "CLBBB"), ("IMII", "IMI"), ("right bundle", "CRBBB"), ("STTS", "STTC"), ("infarction", "IMI")],
)
def test_an_unknown_name_gets_the_nearest(text: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown disease '{text}': did you mean .*\b{near}\b"):
        parse_request(text, TABLE)


def test_a_name_like_no_other_gets_the_superclasses() -> None:
    with pytest.raises(ConfigError, match="unknown disease 'qqq': choose one of MI, STTC, CD, HYP"):
        parse_request("qqq", TABLE)


@pytest.mark.parametrize("text", ["", "  ", "+", "IMI+", "+IMI", "IMI++LAFB"])
def test_an_empty_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no disease in"):
        parse_request(text, TABLE)


@pytest.mark.parametrize(
    ("text", "why"), [("NORM+IMI", "nothing changes"), ("MI+CD", "a superclass"), ("IMI+CD", "CD is")]
)
def test_only_statements_are_joined(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"{why}.*alone"):
        parse_request(text, TABLE)


def test_the_names_on_offer_are_those_that_a_request_takes() -> None:
    names = statement_names(TABLE)
    assert names["CLBBB"] == "complete left bundle branch block"
    assert len(names) == 71 - len(RHYTHMS) - len(UNSHOWN) - 1  # NORM is a superclass
    for code in TABLE.index:
        if code in names:
            assert parse_request(code, TABLE).name == code
        elif code != "NORM":
            with pytest.raises(ConfigError):
                parse_request(code, TABLE)


def test_a_table_without_the_columns_of_form_and_rhythm_offers_the_diagnoses() -> None:
    bare = TABLE[["description", "diagnostic", "diagnostic_class"]]
    assert set(statement_names(bare)) == set(superclass_of(TABLE)) - {"NORM", "2AVB", "3AVB"}
    with pytest.raises(ConfigError, match="is a rhythm"):
        parse_request("AFIB", bare)
    with pytest.raises(ConfigError, match="not about the shape"):
        parse_request("INVT", bare)
