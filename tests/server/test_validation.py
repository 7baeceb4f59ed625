"""Nothing that a site sends is used before it has been checked, and no text of a site is ever repeated."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

import server.validation
from server.model import SharedModel
from server.packing import PARTS
from server.validation import (
    MAX_EXAMPLES,
    ReplyChecker,
    ReplyError,
    _check_moments,
    describe_error,
    read_evaluation,
    read_site_name,
)
from tests.packed import opened

Make = Callable[..., RecordDict]


@pytest.fixture
def check(model: SharedModel) -> ReplyChecker:
    return ReplyChecker(model)


def test_a_good_reply_is_read_bit_for_bit(check: ReplyChecker, good_update: Make, model: SharedModel) -> None:
    read = check.update(good_update(value=0.5, examples=12))
    assert read.examples == 12
    assert torch.equal(read.detector["stem.weight"], model.detector["stem.weight"] + 0.5)
    assert torch.equal(read.codebook["sums"], torch.full((3, 2), 0.25))
    assert set(read.codebook) == {"counts", "sums", "prior", "requests"}
    assert read.networks.keys() == model.networks.keys()
    assert torch.equal(read.networks["editor.null"], model.networks["editor.null"] + 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("record", "key"), [("detector", "head.bias"), ("codebook", "prior"), ("networks", "editor.null")]
)
def test_one_value_that_is_not_finite_is_enough(
    check: ReplyChecker, good_update: Make, record: str, key: str, bad: float
) -> None:
    content = good_update()
    with opened(content) as parts:
        parts[record][key].view(-1)[-1] = bad
    with pytest.raises(ReplyError, match=f"{record}/{key} has values that are not finite"):
        check.update(content)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, 1),
        torch.zeros(3),
        torch.zeros(0),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.int32),
        torch.zeros(2, dtype=torch.bfloat16),
    ],
    ids=["rank", "length", "empty", "float64", "int32", "bfloat16"],
)
@pytest.mark.parametrize(("record", "key"), [("detector", "head.bias"), ("networks", "editor.null")])
def test_another_shape_or_dtype_is_rejected(
    check: ReplyChecker, good_update: Make, record: str, key: str, value: torch.Tensor
) -> None:
    content = good_update()
    with opened(content) as parts:
        parts[record][key] = value
    with pytest.raises(ReplyError, match=rf"{record}/{re.escape(key)} is not float32 of shape \(2,\)"):
        check.update(content)


def test_a_part_in_another_form_is_rejected(check: ReplyChecker, good_update: Make) -> None:
    """What else is no buffer of ours: ``test_packing``."""
    content = good_update()
    content[PARTS] = ArrayRecord({"detector": Array(np.zeros(14, np.float32))})
    with pytest.raises(ReplyError, match="parts cannot be read: not a safetensors buffer as lavq writes it"):
        check.update(content)


def test_what_is_much_too_long_is_not_even_read(
    check: ReplyChecker, good_update: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = good_update()
    with opened(content) as parts:
        parts["codebook"]["Jane Doe"] = torch.zeros(10_000)
    monkeypatch.delattr(server.validation, "unpack")
    with pytest.raises(ReplyError, match="parts is longer than the 8 tensors that were asked for"):
        check.update(content)


def test_a_missing_record_or_array_is_named(check: ReplyChecker, good_update: Make) -> None:
    without_parts = good_update()
    del without_parts[PARTS]
    with pytest.raises(ReplyError, match="the reply lacks parts"):
        check.update(without_parts)
    without_codebook = good_update()
    with opened(without_codebook) as parts:
        del parts["codebook"]
    with pytest.raises(ReplyError, match="the reply lacks codebook"):
        check.update(without_codebook)
    without_bias = good_update()
    with opened(without_bias) as parts:
        del parts["detector"]["head.bias"]
    with pytest.raises(ReplyError, match=r"detector lacks head\.bias"):
        check.update(without_bias)


def test_networks_that_were_sent_must_come_back(check: ReplyChecker, good_update: Make) -> None:
    without_networks = good_update()
    with opened(without_networks) as parts:
        del parts["networks"]
    with pytest.raises(ReplyError, match="the reply lacks networks"):
        check.update(without_networks)
    without_the_prior = good_update()
    with opened(without_the_prior) as parts:
        del parts["networks"]["prior.head.bias"]
    with pytest.raises(ReplyError, match=r"networks lacks prior\.head\.bias"):
        check.update(without_the_prior)


def test_networks_that_were_not_sent_are_not_taken(private_networks: SharedModel, good_update: Make) -> None:
    """A federation that shares none would otherwise collect weights that a site meant to keep."""
    check = ReplyChecker(private_networks)
    with pytest.raises(ReplyError, match=r"the reply holds 1 key\(s\) that were not asked for"):
        check.update(good_update())
    private = good_update()
    with opened(private) as parts:
        del parts["networks"]
    assert check.update(private).networks == {}


@pytest.mark.parametrize("where", ["reply", "parts", "detector", "codebook", "networks", "metrics"])
def test_an_extra_key_is_rejected_and_not_repeated(check: ReplyChecker, good_update: Make, where: str) -> None:
    content = good_update()
    if where == "reply":
        content["Jane Doe"] = MetricRecord({"age": 61})
    elif where == "metrics":
        content["metrics"] = MetricRecord({"num-examples": 10, "Jane Doe": 0.7})
    elif where == "parts":
        with opened(content) as parts:
            parts["Jane Doe"] = {"age": torch.zeros(1)}
    else:
        with opened(content) as parts:
            parts[where]["Jane Doe"] = torch.zeros(2)
    with pytest.raises(ReplyError) as caught:
        check.update(content)
    assert "1 key(s) that were not asked for" in str(caught.value)
    assert "Jane" not in str(caught.value)


def test_the_codes_themselves_are_not_taken_from_a_site(check: ReplyChecker, good_update: Make) -> None:
    content = good_update()
    with opened(content) as parts:
        parts["codebook"]["codes"] = torch.zeros(3, 2)
    with pytest.raises(ReplyError, match="codebook holds 1 key"):
        check.update(content)


def test_a_record_of_the_wrong_kind_is_rejected(check: ReplyChecker, good_update: Make) -> None:
    content = good_update()
    content[PARTS] = ConfigRecord({"detector": b"x"})
    with pytest.raises(ReplyError, match="parts is not an ArrayRecord"):
        check.update(content)


@pytest.mark.parametrize("key", ["counts", "prior", "requests"])
def test_negative_counts_are_rejected(check: ReplyChecker, good_update: Make, key: str) -> None:
    content = good_update()
    with opened(content) as parts:
        parts["codebook"][key].neg_()
    with pytest.raises(ReplyError, match=f"codebook/{key} has negative counts"):
        check.update(content)


@pytest.mark.parametrize("examples", [0, -5, MAX_EXAMPLES + 1, 10.0, [10], float("nan")])
def test_lying_about_the_number_of_examples_is_rejected(
    check: ReplyChecker, good_update: Make, examples: object
) -> None:
    content = good_update()
    content["metrics"] = MetricRecord({"num-examples": examples})  # type: ignore[dict-item]
    with pytest.raises(ReplyError, match="num-examples is not a whole number from 1 to 10000000"):
        check.update(content)
    if examples != 0:  # a site may have no record in its validation fold
        with pytest.raises(ReplyError, match="num-examples"):
            read_evaluation(RecordDict({"metrics": content["metrics"]}))


def test_a_site_without_validation_records_may_say_so() -> None:
    assert read_evaluation(RecordDict({"metrics": MetricRecord({"num-examples": 0})})) == 0


@pytest.mark.parametrize("examples", [1, MAX_EXAMPLES])
def test_the_range_of_examples_includes_its_ends(check: ReplyChecker, good_update: Make, examples: int) -> None:
    assert check.update(good_update(value=0.1, examples=examples)).examples == examples
    assert read_evaluation(RecordDict({"metrics": MetricRecord({"num-examples": examples})})) == examples


def test_an_evaluation_carries_no_score(check: ReplyChecker) -> None:
    with pytest.raises(ReplyError):
        read_evaluation(RecordDict({"metrics": MetricRecord({"num-examples": 5, "auc": 0.9})}))
    with pytest.raises(ReplyError):
        read_evaluation(RecordDict({"metrics": MetricRecord({"num-examples": 5}), "arrays": ArrayRecord()}))


@pytest.mark.parametrize("name", ["site-0", "UKE.cardiology_2", "a" * 64])
def test_a_pseudonym_is_taken(name: str) -> None:
    assert read_site_name(RecordDict({"site": ConfigRecord({"name": name})})) == name


@pytest.mark.parametrize("name", ["", "../../etc", ".hidden", "a" * 65, "two words", "line\nbreak", 7, ["site-0"]])
def test_a_name_that_is_no_file_name_is_rejected(name: object) -> None:
    with pytest.raises(ReplyError) as caught:
        read_site_name(RecordDict({"site": ConfigRecord({"name": name})}))  # type: ignore[dict-item]
    assert repr(name) not in str(caught.value)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("DataError", "DataError"),
        ("torch.OutOfMemoryError", "torch.OutOfMemoryError"),
        ("<class 'ValueError'>:<'patient Jane Doe'>", "unnamed error (Flower code 2)"),
        ("Jane Doe", "unnamed error (Flower code 2)"),
        ("", "unnamed error (Flower code 2)"),
        (None, "unnamed error (Flower code 2)"),
    ],
)
def test_an_error_is_a_class_name_or_nothing(reason: str | None, said: str) -> None:
    assert describe_error(Error(2, reason)) == said


# --- statistics and moments that nobody can have ---------------------------------------------------------------------


def set_values(content: RecordDict, record: str, key: str, value: float) -> RecordDict:
    """Fill one tensor of a reply."""
    with opened(content) as parts:
        parts[record][key].fill_(value)
    return content


@pytest.mark.parametrize(
    ("key", "most"),
    [("counts", 10 * 4 / 3), ("prior", 10 / 4), ("requests", 10.0)],
)
def test_statistics_count_no_more_records_than_are_declared(
    check: ReplyChecker, good_update: Make, key: str, most: float
) -> None:
    """Ten records have at most forty tokens, ten tokens in each place, and ten requests of a statement."""
    assert check.update(set_values(good_update(examples=10), "codebook", key, 0.999 * most))
    with pytest.raises(ReplyError, match=f"codebook/{key} counts more than the 10 records that the site declares"):
        check.update(set_values(good_update(examples=10), "codebook", key, 1.01 * most))


def test_a_sum_of_unit_latents_is_no_longer_than_their_number(check: ReplyChecker, good_update: Make) -> None:
    assert check.update(set_values(good_update(value=2.0), "codebook", "sums", 2**0.5))
    with pytest.raises(ReplyError, match="codebook/sums has a sum longer than its number of unit latents"):
        check.update(set_values(good_update(value=2.0), "codebook", "sums", 1.02 * 2**0.5))


@pytest.fixture
def with_moments(model: SharedModel) -> ReplyChecker:
    kinds = ("first", "second")
    moments = {f"{k}.{name}": torch.zeros_like(v) for k in kinds for name, v in model.detector.items()}
    return ReplyChecker(replace(model, moments=moments))


def reply_with(check: ReplyChecker, good_update: Make, first: float = 0.1, second: float = 0.1) -> RecordDict:
    content, values = good_update(), {"first": first, "second": second}
    moments = {name: torch.full_like(v, values[name.split(".")[0]]) for name, v in check.sent.moments.items()}
    with opened(content) as parts:
        parts["moments"] = moments
    return content


def test_moments_come_with_the_weights_where_they_were_sent(
    check: ReplyChecker, with_moments: ReplyChecker, good_update: Make
) -> None:
    read = with_moments.update(reply_with(with_moments, good_update))
    assert read.moments.keys() == with_moments.sent.moments.keys()
    with pytest.raises(ReplyError, match="the reply lacks moments"):
        with_moments.update(good_update())
    with pytest.raises(ReplyError, match=r"the reply holds 1 key\(s\) that were not asked for"):
        check.update(reply_with(with_moments, good_update))


def test_second_moments_are_squares(with_moments: ReplyChecker, good_update: Make) -> None:
    with pytest.raises(ReplyError, match=r"moments/second\.stem\.weight has negative values"):
        with_moments.update(reply_with(with_moments, good_update, second=-1e-9))


def test_first_moments_belong_to_their_second_moments(with_moments: ReplyChecker, good_update: Make) -> None:
    """Else a site could send large first and no second moments, and everybody's next step would be enormous."""
    for first, second in ((7.2, 1.0), (0.0, 0.0), (-0.72, 0.01)):
        assert with_moments.update(reply_with(with_moments, good_update, first, second))
    for first, second in ((7.3, 1.0), (0.1, 0.0), (-0.73, 0.01)):
        with pytest.raises(ReplyError, match=r"moments/first\.stem\.weight is larger than its second moments allow"):
            with_moments.update(reply_with(with_moments, good_update, first, second))


@settings(max_examples=20, deadline=None)
@given(gradients=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60))
def test_no_gradients_break_the_bound_on_moments(gradients: list[float]) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight])
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        optimiser.step()
    state = optimiser.state[weight]
    _check_moments({"first.w": state["exp_avg"], "second.w": state["exp_avg_sq"]})


# --- ledgers of private training -------------------------------------------------------------------------------------


def note(head: object = "a" * 64, epsilon: object = 1.5, delta: object = 1e-5) -> ConfigRecord:
    return ConfigRecord({"head": head, "epsilon": epsilon, "delta": delta})  # type: ignore[dict-item]


def test_a_private_reply_names_its_ledger_and_an_open_one_does_not(good_update: Make, model: SharedModel) -> None:
    content = good_update()
    with pytest.raises(ReplyError, match="lacks ledger"):
        ReplyChecker(model, private=True).update(content)
    content["ledger"] = note()
    read = ReplyChecker(model, private=True).update(content)
    assert read.ledger is not None
    assert (read.ledger.head, read.ledger.epsilon, read.ledger.delta) == ("a" * 64, 1.5, 1e-5)
    with pytest.raises(ReplyError, match="not asked for"):
        ReplyChecker(model).update(content)


@pytest.mark.parametrize(
    "bad",
    [
        note(head="Jane Doe"), note(head="A" * 64), note(head=7), note(epsilon=-1.0), note(epsilon=float("nan")),
        note(epsilon="little"), note(delta=0.0), note(delta=2.0), ConfigRecord({"head": "a" * 64}),
        MetricRecord({"epsilon": 1.0}),
    ],
)  # fmt: skip
def test_a_ledger_note_that_is_none_is_rejected(good_update: Make, model: SharedModel, bad: object) -> None:
    content = good_update()
    content["ledger"] = bad  # type: ignore[assignment]
    with pytest.raises(ReplyError, match="ledger") as caught:
        ReplyChecker(model, private=True).update(content)
    assert "Jane" not in str(caught.value)
