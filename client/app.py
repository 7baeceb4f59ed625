"""Flower's ClientApp: three messages, and nothing leaves but what is named here.

=========  =========================================================================================================
query      the site's pseudonym
train      ``detector`` weights; ``codebook`` statistics (counts, sums, prior, requests); weights of the ``networks``
           that ``federation.share`` names; with ``federation.average_moments`` the ``moments`` of the detector's
           optimiser, two numbers a weight; the number of training records
evaluate   the number of records; the scores themselves stay on site
=========  =========================================================================================================

Weights and statistics of a message travel packed into one array (``server.packing``).

What comes in is ``server.model.SharedModel``: whole to train, and to an evaluation what that needs
(``SharedModel.scored``). So a deployed site has a round's model whole when the next round begins, or with the last
evaluation, and takes it over then for its own use.

While training is private (``privacy.epsilon``), all of this is noised, public or constant (``client.private``), the
number of records is the noised number of patients, or 0 in an evaluation, and ``train`` adds the head of the site's
``ledger`` with epsilon and delta so far.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

import torch
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.evaluation import accept_model, evaluate_round, write_gallery, write_predictions
from client.private import check_reply, open_ledger
from client.site import Site, open_site
from lavq_core.models.codebook import STATISTICS
from lavq_core.models.stored import shared_detector
from lavq_core.training.site_round import SharedState, train_round
from server.packing import PARTS, Parts, pack, unpack

app = ClientApp()
_FAILED = 2  # Flower's code for an exception inside a ClientApp
_log = logging.getLogger("lavq.client")

Handler = Callable[[Message, Context, Site], RecordDict]


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say the site's pseudonym."""
    return _answer(message, context, lambda _m, _c, site: RecordDict({"site": ConfigRecord({"name": site.name})}))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the shared model on the site's own folds."""
    return _answer(message, context, _evaluate)


def _train(message: Message, context: Context, site: Site) -> RecordDict:
    began = time.monotonic()
    number, rounds = _round(message)
    sent = unpack(message.content.array_records[PARTS])
    shared = replace(_shared(sent, site), moments=_moments(sent, site))
    if site.deployed and number > 1:
        accept_model(site, shared, number - 1)
    ledger = open_ledger(site, _acknowledged(message, site))
    update = train_round(site.data, site.folder.private_model, shared, number, rounds, ledger)
    if not site.folder.data_report.exists():
        site.data.database.write_data_report(site.folder.data_report, site.data.positions)
    event = "round-sent-again" if update.again else "round-trained"
    site.log(event, round=number, seconds=round(time.monotonic() - began, 3), **update.measured)
    parts = {
        "detector": update.detector,
        "codebook": {name: update.statistics[name] for name in STATISTICS},
        "networks": update.networks,
        "moments": update.moments,
    }
    leaving = RecordDict({PARTS: pack({name: state for name, state in parts.items() if state})})
    leaving["metrics"] = MetricRecord({"num-examples": update.examples})
    if ledger is not None:
        check_reply(site, ledger, parts, update.examples, shared)
        leaving["ledger"] = ConfigRecord({"head": ledger.head, "epsilon": ledger.epsilon(), "delta": ledger.delta})
    return leaving


def _evaluate(message: Message, context: Context, site: Site) -> RecordDict:
    number, rounds = _round(message)
    sent = unpack(message.content.array_records[PARTS])
    detector = shared_detector(site.data.config, sent["detector"])
    examples = evaluate_round(site, detector, number)
    if number == rounds:
        shared = _shared(sent, site)
        if site.deployed:
            accept_model(site, shared, number)
        write_predictions(site, detector)
        write_gallery(site, detector, shared, number)
    private = site.data.config.privacy.epsilon > 0
    return RecordDict({"metrics": MetricRecord({"num-examples": 0 if private else examples})})


def _answer(message: Message, context: Context, handler: Handler) -> Message:
    """Reply with the handler's records, or with the class of what went wrong and nothing else.

    Flower would send the text of an exception to the server, and a text can name a patient: it is kept in the site's
    own folder instead.
    """
    try:
        site = open_site(context)
    except Exception as error:
        _log.error("this site could not be opened: %s", type(error).__name__)
        return Message(Error(_FAILED, type(error).__name__), reply_to=message)
    try:
        leaving = handler(message, context, site)
        site.policy.require_may_leave(leaving)
        return Message(leaving, reply_to=message)
    except Exception as error:
        site.log("failed", error=type(error).__name__, traceback=traceback.format_exc())
        return Message(Error(_FAILED, type(error).__name__), reply_to=message)


def _shared(sent: Parts, site: Site) -> SharedState:
    networks = sent["networks"] if site.data.config.federation.share else {}
    return SharedState(sent["detector"], sent["codebook"], networks)


def _moments(sent: Parts, site: Site) -> dict[str, torch.Tensor]:
    return sent["moments"] if site.data.config.federation.average_moments else {}


def _acknowledged(message: Message, site: Site) -> str:
    heads = message.content.config_records.get("ledgers", ConfigRecord())
    return str(heads.get(site.name, ""))


def _round(message: Message) -> tuple[int, int]:
    record = message.content.config_records["round"]
    return int(str(record["number"])), int(str(record["rounds"]))
