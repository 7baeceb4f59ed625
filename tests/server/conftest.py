"""Toy sites and a model of a few numbers: whole federations run in milliseconds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lavq_core.models.codebook import STATISTICS, merge_statistics
from lavq_core.runs.events import EventLog, read_events
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import DetectorTrainingConfig, FederationConfig
from server.aggregation import Aggregator
from server.checkpoints import Checkpoints
from server.flower_adapter import acting_as_server
from server.model import SharedModel
from server.packing import PARTS, pack
from server.round_loop import RoundLoop
from simulations.inprocess import RUN_ID, InProcessGrid
from tests.packed import states

Site = Callable[[Message, Context], RecordDict]
K, D, C, N, S = 3, 2, 5, 4, 6  # codes, their width, classes, tokens of a beat, statements


@pytest.fixture
def model() -> SharedModel:
    generator = torch.Generator().manual_seed(7)
    return SharedModel(
        {"stem.weight": torch.randn(4, 3, generator=generator), "head.bias": torch.randn(2, generator=generator)},
        {
            "codes": torch.nn.functional.normalize(torch.randn(K, D, generator=generator), dim=-1),
            "counts": torch.zeros(K),
            "sums": torch.zeros(K, D),
            "prior": torch.zeros(C, N, K + 1),
            "requests": torch.zeros(C, S),
        },
        {"editor.null": torch.randn(D, generator=generator), "prior.head.bias": torch.randn(3, generator=generator)},
    )


@pytest.fixture
def private_networks(model: SharedModel) -> SharedModel:
    """The same model in a federation that shares no network: ``federation.share=[]``."""
    return replace(model, networks={})


def update(sent: Mapping[str, Mapping[str, torch.Tensor]], value: float, examples: int) -> RecordDict:
    """A site's reply: ``value`` added to every weight that was sent, ``value`` in every statistic, half in sums."""
    learnt = {
        part: {name: weights + value for name, weights in state.items()}
        for part, state in sent.items()
        if part not in ("codebook", "moments")
    }
    if "moments" in sent:
        learnt["moments"] = {name: torch.full_like(old, value) for name, old in sent["moments"].items()}
    statistics = {name: torch.full(sent["codebook"][name].shape, value) for name in STATISTICS}
    statistics["sums"] *= 0.5  # a sum of unit latents is no longer than their number
    record = pack({**learnt, "codebook": statistics})
    return RecordDict({PARTS: record, "metrics": MetricRecord({"num-examples": examples})})


@pytest.fixture
def good_update(model: SharedModel) -> Callable[..., RecordDict]:
    """Make a reply that the server accepts."""

    def make(value: float = 1.0, examples: int = 10) -> RecordDict:
        return update(model.parts(), value, examples)

    return make


def good_site(message: Message, context: Context) -> RecordDict:
    """Site i adds i + 1 to every weight and has 10 (i + 1) examples."""
    number = int(context.node_config["partition-id"]) + 1
    return update(states(message.content), float(number), 10 * number)


@pytest.fixture
def client_app() -> Callable[..., ClientApp]:
    """Make a ClientApp out of one training function per site, and optionally other names."""

    def make(trainers: Mapping[int, Site] | None = None, names: Mapping[int, str] | None = None) -> ClientApp:
        app = ClientApp()

        @app.query("hello")
        def hello(message: Message, context: Context) -> Message:
            partition = int(context.node_config["partition-id"])
            name = (names or {}).get(partition, f"site-{partition}")
            return Message(RecordDict({"site": ConfigRecord({"name": name})}), reply_to=message)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            site = (trainers or {}).get(int(context.node_config["partition-id"]), good_site)
            return Message(site(message, context), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            return Message(RecordDict({"metrics": MetricRecord({"num-examples": 5})}), reply_to=message)

        return app

    return make


class Federation:
    """A run of the real round loop over toy sites."""

    def __init__(self, folder: Path, model: SharedModel) -> None:
        self.run_folder = RunFolder(folder)
        self.model = model

    def loop(self, grid: InProcessGrid, **settings: Any) -> RoundLoop:
        federation = FederationConfig(
            **{"sites": 3, "min_sites": 2, "rounds": 1, "join_timeout": 5.0, "round_timeout": 5.0}
            | {"max_weight_share": 1.0}  # two of three sites are left where one fails, and one of them is larger
            | settings
        )
        checkpoints = Checkpoints(self.run_folder, federation.rounds, {"seed": 0})
        aggregator = Aggregator(federation, DetectorTrainingConfig(), merge_statistics)
        return RoundLoop(grid, federation, aggregator, checkpoints, EventLog(self.run_folder.events))

    def run(self, grid: InProcessGrid, **settings: Any) -> SharedModel:
        return self.loop(grid, **settings).run(self.model)

    def resume(self, grid: InProcessGrid, **settings: Any) -> SharedModel:
        return self.loop(grid, **settings).resume(self.model)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The logged events of these names, all if none are given, without their time stamps."""
        logged = read_events(self.run_folder.events)
        return [
            {key: value for key, value in event.items() if key != "time"}
            for event in logged
            if not names or event["event"] in names
        ]


@pytest.fixture
def federation(tmp_path: Path, model: SharedModel) -> Iterator[Federation]:
    with acting_as_server(RUN_ID):
        yield Federation(tmp_path / "run", model)


@pytest.fixture
def grid_of(client_app: Callable[..., ClientApp]) -> Callable[..., InProcessGrid]:
    """Make a grid of toy sites."""

    def make(trainers: Mapping[int, Site] | None = None, sites: int = 3, **names: Any) -> InProcessGrid:
        return InProcessGrid(client_app(trainers, **names), sites, {})

    return make
