"""What a site may reply, checked before anything is done with it.

A reply is data from outside. The checks name what the server expected and never repeat a string that a site sent: a key
or a text may hold a patient's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from torch import Tensor

from lavq_core.models.codebook import STATISTICS
from lavq_core.training.detector_training import BETAS
from server.model import LedgerNote, SharedModel, SiteUpdate, State

MAX_EXAMPLES = 10_000_000
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,79}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NPY_HEADER = 4096  # bytes, more than any .npy header of ours takes
_ROUNDING = 1e-3  # relative, of sums in float32


class ReplyError(Exception):
    """A reply that the server does not use; the message says why, in the server's own words."""


@dataclass(frozen=True)
class ReplyChecker:
    """Checks the replies to ``train`` against the model that was sent."""

    sent: SharedModel
    private: bool = False  # a reply names the head of its site's privacy ledger

    def update(self, content: RecordDict) -> SiteUpdate:
        """Read a ``train`` reply.

        Raises:
            ReplyError: other keys, shapes or dtypes than sent, a value that is not finite, ``num-examples`` outside
                1..10 million, codebook statistics that so many records cannot have, or moments that no AdamW has.
        """
        _expect_keys(content, {*self.sent.parts(), "metrics", *(["ledger"] if self.private else [])}, "the reply")
        expected = {name: self.sent.codebook[name] for name in STATISTICS}
        detector = _read_state(content["detector"], self.sent.detector, "detector")
        codebook = _read_state(content["codebook"], expected, "codebook")
        networks = _read_state(content["networks"], self.sent.networks, "networks") if self.sent.networks else {}
        moments = _read_state(content["moments"], self.sent.moments, "moments") if self.sent.moments else {}
        examples = _read_examples(content["metrics"])
        _check_statistics(codebook, examples)
        _check_moments(moments)
        ledger = _read_ledger(content["ledger"]) if self.private else None
        return SiteUpdate(detector, codebook, networks, examples, moments, ledger)


def _read_ledger(record: object) -> LedgerNote:
    if not isinstance(record, ConfigRecord):
        raise ReplyError("ledger is not a ConfigRecord")
    _expect_keys(record, {"head", "epsilon", "delta"}, "ledger")
    head, epsilon, delta = record["head"], record["epsilon"], record["delta"]
    if not isinstance(head, str) or not _DIGEST.fullmatch(head):
        raise ReplyError("ledger/head is not a sha256")
    if not isinstance(epsilon, float) or not isinstance(delta, float) or not (0 <= epsilon < 1e6 and 0 < delta < 1):
        raise ReplyError("ledger/epsilon or delta is out of range")
    return LedgerNote(head, epsilon, delta)


def _check_statistics(codebook: State, examples: int) -> None:
    """Refuse sums that no ``examples`` records have: each adds at most one latent of length 1 a token.

    Within these bounds a site can still move the codes: the statistics are sums, and nobody sees which are true.
    """
    for name in ("counts", "prior", "requests"):
        if bool((codebook[name] < 0).any()):
            raise ReplyError(f"codebook/{name} has negative counts")
    records, tokens = examples * (1 + _ROUNDING), codebook["prior"].shape[1]
    totals = {
        "counts": float(codebook["counts"].sum()) / tokens,
        "prior": float(codebook["prior"].sum(-1).max()),
        "requests": float(codebook["requests"].max()),
    }
    for name, most in totals.items():
        if most > records:
            raise ReplyError(f"codebook/{name} counts more than the {examples} records that the site declares")
    lengths = codebook["sums"].double().norm(dim=-1)
    if bool((lengths > codebook["counts"].double() * (1 + _ROUNDING) + _ROUNDING).any()):
        raise ReplyError("codebook/sums has a sum longer than its number of unit latents")


def _check_moments(moments: State) -> None:
    """Refuse moments that no sequence of gradients gives.

    By the inequality of Cauchy and Schwarz ``first^2 <= second (1 - b1)^2 / ((1 - b2) (1 - b1^2 / b2))``, also for
    averages over sites: so a step is at most about seven times the learning rate, whatever a site sends.
    """
    b1, b2 = BETAS
    bound = (1 - b1) ** 2 / ((1 - b2) * (1 - b1**2 / b2))
    for name, value in moments.items():
        kind, _, key = name.partition(".")
        if kind == "second":
            if bool((value < 0).any()):
                raise ReplyError(f"moments/{name} has negative values")
            first = moments[f"first.{key}"].double()
            if bool((first.square() > value.double() * bound * (1 + _ROUNDING) + 1e-30).any()):
                raise ReplyError(f"moments/first.{key} is larger than its second moments allow")


def read_evaluation(content: RecordDict) -> int:
    """Read an ``evaluate`` reply: the number of examples, 0 where a site has none in its validation fold.

    Raises:
        ReplyError: anything but ``num-examples`` in 0..10 million.
    """
    _expect_keys(content, {"metrics"}, "the reply")
    return _read_examples(content["metrics"], fewest=0)


def read_site_name(content: RecordDict) -> str:
    """Read a ``query.hello`` reply: the site's pseudonym.

    Raises:
        ReplyError: not 1 to 64 letters, digits, dots, dashes or underscores.
    """
    _expect_keys(content, {"site"}, "the reply")
    record = content["site"]
    if not isinstance(record, ConfigRecord):
        raise ReplyError("site is not a ConfigRecord")
    _expect_keys(record, {"name"}, "site")
    name = record["name"]
    if not isinstance(name, str) or not _SITE_NAME.fullmatch(name):
        raise ReplyError("the site's name is not 1 to 64 letters, digits, dots, dashes or underscores")
    return name


def describe_error(error: Error) -> str:
    """Say what failed without repeating an exception's text: its class if the site sent just that, else the code."""
    reason = error.reason or ""
    return reason if _CLASS_NAME.fullmatch(reason) else f"unnamed error (Flower code {int(error.code)})"


def _expect_keys(record: Mapping[str, object], expected: set[str], where: str) -> None:
    missing = sorted(expected - set(record))
    if missing:
        raise ReplyError(f"{where} lacks {', '.join(missing)}")
    extra = len(set(record) - expected)
    if extra:
        raise ReplyError(f"{where} holds {extra} key(s) that were not asked for")


def _read_state(record: object, expected: Mapping[str, Tensor], where: str) -> State:
    if not isinstance(record, ArrayRecord):
        raise ReplyError(f"{where} is not an ArrayRecord")
    _expect_keys(record, set(expected), where)
    return {name: _read_array(record[name], like, f"{where}/{name}") for name, like in expected.items()}


def _read_array(array: Array, like: Tensor, where: str) -> Tensor:
    """Decode one array; size, dtype and shape are compared before anything large is allocated."""
    shape, dtype = tuple(like.shape), str(like.numpy().dtype)
    if tuple(array.shape) != shape or array.dtype != dtype:
        raise ReplyError(f"{where} is not {dtype} of shape {shape}")
    if len(array.data) > like.numel() * like.element_size() + _NPY_HEADER:
        raise ReplyError(f"{where} is longer than {dtype} of shape {shape}")
    try:
        values = array.numpy()
    except Exception as error:  # np.load raises many kinds, and whatever it is, the array cannot be read
        raise ReplyError(f"{where} cannot be read") from error
    if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype != np.dtype(dtype):
        raise ReplyError(f"{where} is not {dtype} of shape {shape}")
    if not np.isfinite(values).all():
        raise ReplyError(f"{where} has values that are not finite")
    return torch.from_numpy(np.ascontiguousarray(values).reshape(shape).copy())


def _read_examples(record: object, fewest: int = 1) -> int:
    if not isinstance(record, MetricRecord):
        raise ReplyError("metrics is not a MetricRecord")
    _expect_keys(record, {"num-examples"}, "metrics")
    value = record["num-examples"]
    if not isinstance(value, int) or isinstance(value, bool) or not fewest <= value <= MAX_EXAMPLES:
        raise ReplyError(f"metrics/num-examples is not a whole number from {fewest} to {MAX_EXAMPLES}")
    return value
