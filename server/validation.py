"""What a site may reply, checked before anything is done with it.

A reply is data from outside. The checks name what the server expected and never repeat a string that a site sent: a key
or a text may hold a patient's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from lavq_core.models.codebook import STATISTICS
from lavq_core.training.detector_training import BETAS
from server.model import LedgerNote, SharedModel, SiteUpdate, State
from server.packing import PARTS, packed_bytes, unpack

MAX_EXAMPLES = 10_000_000
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,79}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEADER = 256  # bytes that a tensor may take in the header of a packed reply, beside its name
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
            ReplyError: other parts, keys, shapes or dtypes than sent, a buffer that is too long or of another form, a
                value that is not finite, ``num-examples`` outside 1..10 million, codebook statistics that so many
                records cannot have, or moments that no AdamW has.
        """
        _expect_keys(content, {PARTS, "metrics", *(["ledger"] if self.private else [])}, "the reply")
        expected = self.sent.parts() | {"codebook": {name: self.sent.codebook[name] for name in STATISTICS}}
        parts = _read_parts(content[PARTS], expected)
        detector, codebook = parts["detector"], parts["codebook"]
        networks, moments = parts.get("networks", {}), parts.get("moments", {})
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


def _read_parts(record: object, expected: Mapping[str, State]) -> dict[str, State]:
    """Unpack a reply, tensors in the order of ``expected``; its length is compared before anything of it is read."""
    if not isinstance(record, ArrayRecord):
        raise ReplyError(f"{PARTS} is not an ArrayRecord")
    asked = [(name, like) for state in expected.values() for name, like in state.items()]
    if packed_bytes(record) > sum(2 * like.nbytes + len(name) + _HEADER for name, like in asked):
        raise ReplyError(f"{PARTS} is longer than the {len(asked)} tensors that were asked for")
    try:
        parts = unpack(record)
    except ValueError as error:
        raise ReplyError(f"{PARTS} cannot be read: {error}") from None
    _expect_keys(parts, set(expected), "the reply")
    return {part: _checked(parts[part], like, part) for part, like in expected.items()}


def _checked(state: State, expected: State, where: str) -> State:
    _expect_keys(state, set(expected), where)
    for name, like in expected.items():
        if state[name].shape != like.shape or state[name].dtype != like.dtype:
            dtype, shape = str(like.dtype).removeprefix("torch."), tuple(like.shape)
            raise ReplyError(f"{where}/{name} is not {dtype} of shape {shape}")
        if not bool(state[name].isfinite().all()):
            raise ReplyError(f"{where}/{name} has values that are not finite")
    return {name: state[name] for name in expected}


def _read_examples(record: object, fewest: int = 1) -> int:
    if not isinstance(record, MetricRecord):
        raise ReplyError("metrics is not a MetricRecord")
    _expect_keys(record, {"num-examples"}, "metrics")
    value = record["num-examples"]
    if not isinstance(value, int) or isinstance(value, bool) or not fewest <= value <= MAX_EXAMPLES:
        raise ReplyError(f"metrics/num-examples is not a whole number from {fewest} to {MAX_EXAMPLES}")
    return value
