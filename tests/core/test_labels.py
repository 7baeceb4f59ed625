from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavq_core.data.labels import (
    SUPERCLASSES,
    class_index,
    diagnostic_statements,
    parse_statements,
    public_statements,
    statement_matrix,
    superclass_labels,
    superclass_of,
)
from lavq_core.data.ptbxl import read_tables
from lavq_core.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def classes(sample: Path) -> dict[str, str]:
    return superclass_of(read_tables(sample).statements)


def test_the_order_is_the_official_one() -> None:
    assert SUPERCLASSES == ("NORM", "MI", "STTC", "CD", "HYP")
    assert class_index("CD") == 3


def test_an_unknown_disease_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"unknown disease 'FLU': choose one of NORM, MI, STTC, CD, HYP"):
        class_index("FLU")


def test_only_the_44_diagnostic_statements_have_a_superclass(classes: dict[str, str]) -> None:
    assert len(classes) == 44
    assert classes["LVH"] == "HYP"
    assert classes["CLBBB"] == "CD"
    assert not {"SR", "AFIB", "PVC", "ABQRS"} & set(classes)


def test_any_diagnostic_statement_counts_however_unlikely(classes: dict[str, str]) -> None:
    records = [{"NORM": 80.0, "SR": 0.0}, {"IMI": 15.0, "LVH": 100.0}, {"SR": 0.0}, {"NST_": 0.0}]
    labels = superclass_labels(records, classes)
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]])


def test_a_minimum_likelihood_drops_what_lies_below(classes: dict[str, str]) -> None:
    records = [{"IMI": 15.0, "LVH": 50.0}, {"NST_": 0.0}]
    np.testing.assert_array_equal(superclass_labels(records, classes, 50.0), [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])


def test_no_records_no_labels(classes: dict[str, str]) -> None:
    assert superclass_labels([], classes).shape == (0, 5)


def test_statements_are_a_literal() -> None:
    assert parse_statements("{'NORM': 80.0, 'SR': 0}") == {"NORM": 80.0, "SR": 0.0}


@pytest.mark.parametrize(
    "text", ["", "nan", "[1]", "{'NORM'", "{'NORM': 'x'}", "__import__('os').getcwd()", "(" * 9999]
)
def test_anything_else_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(DataError, match="scp_codes"):
        parse_statements(text)


# --- the public table ------------------------------------------------------------------------------------------------


def test_the_public_table_is_that_of_ptb_xl(sample: Path) -> None:
    """Sites take descriptions and superclasses from here, whatever their own table says."""
    public, theirs = public_statements(), read_tables(sample).statements
    assert len(public) == 71
    assert set(public.index) == set(theirs.index)
    theirs = theirs.loc[public.index]
    assert public["description"].tolist() == theirs["description"].tolist()
    assert superclass_of(public) == superclass_of(theirs)
    for kind in ("diagnostic", "form", "rhythm"):
        assert set(public[kind].unique()) == {0, 1}
        assert ((theirs[kind] == 1) == (public[kind] == 1)).all()


def test_every_statement_is_described_in_words_of_its_own() -> None:
    words = public_statements()["description"]
    assert words.str.strip().str.len().min() > 3
    assert words.is_unique
    assert public_statements().index.is_unique


def test_the_order_of_diagnostic_statements_is_fixed(classes: dict[str, str]) -> None:
    """Counts by statement travel without names: every site must mean the same column."""
    order = diagnostic_statements()
    assert list(order) == sorted(classes)
    assert len(order) == 44
    assert (order[0], order[-1]) == ("1AVB", "WPW")


def test_a_statement_matrix_tells_which_diagnostic_statements_a_record_carries() -> None:
    order = diagnostic_statements()
    records = [["IMI", "LVH", "SR"], [], ["ABQRS", "XYZ"], ("IMI", "IMI")]
    matrix = statement_matrix(records)
    assert matrix.dtype == np.float32
    assert matrix.shape == (4, 44)
    expected = np.zeros((4, 44))
    expected[0, [order.index("IMI"), order.index("LVH")]] = 1
    expected[3, order.index("IMI")] = 1
    np.testing.assert_array_equal(matrix, expected)
    assert statement_matrix([]).shape == (0, 44)
