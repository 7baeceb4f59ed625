"""What is sent to a site and what comes back: contents, bytes, deadlines, and whose reply it is."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto

from lavq_core.models.codebook import STATISTICS
from lavq_core.runs.artefact import load_artefact
from server.model import SharedModel
from simulations.inprocess import InProcessGrid
from tests.packed import held, states

GridOf = Callable[..., InProcessGrid]


def test_bytes_are_those_of_the_serialised_content(federation, client_app, model: SharedModel) -> None:
    crossed: list[tuple[str, int, int]] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            down = len(recorddict_to_proto(message.content).SerializeToString())
            reply = super()._answer(message)
            up = len(recorddict_to_proto(reply.content).SerializeToString())
            crossed.append((message.metadata.message_type, down, up))
            return reply

    federation.run(Tapped(client_app(), 3, {}))
    for kind, event in (("train", "site-replied"), ("evaluate", "site-evaluated")):
        logged = [(kind, item["bytes_down"], item["bytes_up"]) for item in federation.events(event)]
        assert logged == [item for item in crossed if item[0] == kind]
    parameters = sum(value.numel() for part in model.parts().values() for value in part.values())
    assert federation.events("site-replied")[0]["bytes_down"] > 4 * parameters


def test_what_a_site_receives_is_the_model_and_the_round(federation, client_app) -> None:
    received: list[RecordDict] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            if message.metadata.message_type == "train":
                received.append(message.content)
            return super()._answer(message)

    federation.run(Tapped(client_app(), 3, {}), rounds=2)
    assert len(received) == 6
    assert held(received[0]) == {"detector", "codebook", "networks", "round"}
    assert set(states(received[0])["codebook"]) == {"codes", *STATISTICS}
    assert dict(received[-1]["round"]) == {"number": 2, "rounds": 2}


def test_moments_travel_to_train_and_back_and_not_to_an_evaluation(federation, client_app) -> None:
    crossed: list[tuple[str, set[str], set[str]]] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            down = held(message.content)
            reply = super()._answer(message)
            crossed.append((message.metadata.message_type, down, held(reply.content)))
            return reply

    kinds = {
        f"{k}.{name}": torch.zeros_like(v) for k in ("first", "second") for name, v in federation.model.detector.items()
    }
    federation.model = replace(federation.model, moments=kinds)
    final = federation.run(Tapped(client_app(), 3, {}))
    assert {kind: "moments" in down for kind, down, _ in crossed} == {
        "query.hello": False,
        "train": True,
        "evaluate": False,
    }
    assert all(("moments" in up) == (kind == "train") for kind, _, up in crossed)
    parts = load_artefact(federation.run_folder.checkpoint(1))[0]
    assert all(torch.equal(value, parts["moments"][name]) for name, value in final.moments.items())
    assert all(bool((value > 0).all()) for value in final.moments.values())


def test_a_federation_that_shares_no_network_sends_and_keeps_none(
    federation, client_app, private_networks: SharedModel
) -> None:
    crossed: list[RecordDict] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            reply = super()._answer(message)
            if message.metadata.message_type == "train":
                crossed.extend([message.content, reply.content])
            return reply

    federation.model = private_networks
    final = federation.run(Tapped(client_app(), 3, {}))
    assert len(crossed) == 6
    assert all("detector" in held(content) and "networks" not in held(content) for content in crossed)
    assert final.networks == {}
    assert {event["status"] for event in federation.events("site-replied")} == {"ok"}
    run = federation.run_folder
    assert all(set(load_artefact(folder)[0]) == {"detector", "codebook"} for folder in (run.checkpoint(1), run.model))


def test_only_the_last_evaluation_takes_more_than_the_detector(federation, client_app) -> None:
    """Codebook and networks are whole again in the next training; after the last round there is none."""
    received: list[tuple[str, set[str]]] = []

    class Tapped(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            received.append((message.metadata.message_type, held(message.content)))
            return super()._answer(message)

    federation.run(Tapped(client_app(), 3, {}), rounds=2)
    model = {"detector", "codebook", "networks", "round"}
    evaluations = [parts for kind, parts in received if kind == "evaluate"]
    assert evaluations == 3 * [{"detector", "round"}] + 3 * [model]
    assert all(parts == model for kind, parts in received if kind == "train")
    first, last = federation.events("site-evaluated")[0], federation.events("site-evaluated")[-1]
    assert first["bytes_down"] < last["bytes_down"]


class Silent(InProcessGrid):
    """The last site takes its messages and never answers anything but hello."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for message, message_id in zip(messages, ids, strict=True):
            if message.metadata.dst_node_id == 4 and message.metadata.message_type != "query.hello":
                del self._waiting[message_id]
        return ids


def test_a_site_that_never_answers_costs_one_deadline(federation, client_app) -> None:
    federation.run(Silent(client_app(), 3, {}), round_timeout=0.3)
    (silent,) = [event for event in federation.events("site-replied") if event["site"] == "site-2"]
    assert silent["status"] == "failed: no reply within 0.3 s"
    assert 0.3 <= silent["seconds"] < 2.0
    assert (silent["bytes_up"], silent["examples"]) == (0, None)
    assert silent["bytes_down"] > 0


def test_a_message_that_cannot_be_sent_is_that_sites_failure(federation, client_app) -> None:
    class Refusing(InProcessGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            kept = [message for message in messages if message.metadata.dst_node_id != 3]
            return super().push_messages(kept)

    federation.run(Refusing(client_app(), 3, {}))
    joined = [event["site"] for event in federation.events("site-joined")]
    assert joined == ["site-0", "site-2"]
    assert federation.events("site-replied")[0]["status"] == "failed: the message could not be sent"


def test_a_reply_belongs_to_the_site_that_was_asked(federation, client_app) -> None:
    """Replies in any order, and a second reply of one site, change nothing."""

    class Shuffled(InProcessGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            replies = [reply for item in list(message_ids) for reply in super(Shuffled, self).pull_messages([item])]
            return [*reversed(replies), *replies]

    federation.run(Shuffled(client_app(), 3, {}))
    examples = {event["site"]: event["examples"] for event in federation.events("site-replied")}
    assert examples == {"site-0": 10, "site-1": 20, "site-2": 30}
