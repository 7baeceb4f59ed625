from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.app import app
from client.policy import APP_HASH
from lavq_core.config import compose, save_config
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.models.networks import make_networks
from lavq_core.models.stored import save_private
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from server.app import initial_model
from server.flower_adapter import acting_as_server, copy_over_the_wire, with_message_id
from server.model import SharedModel
from tests.client.policies import LAUNCHED, write_policy

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
SITES = 24  # about 22 records each


@pytest.fixture(scope="session")
def overrides_for(packs: Path) -> Callable[..., list[str]]:
    """Make the overrides of a run of small networks in a folder."""

    def make(run: Path, *more: str) -> list[str]:
        return [
            f"run.dir='{run}'",
            "run.device=cpu",
            f"data.dir='{SAMPLE}'",
            f"data.cache_dir='{packs}'",
            "partition.scheme=iid",
            f"federation.sites={SITES}",
            "federation.rounds=2",
            "detector.width=8",
            "detector.blocks=1",
            "detector_training.epochs=1",
            "separator.width=16",
            "separator.blocks=1",
            "separator.heads=2",
            "separator_training.steps=1",
            "separator_training.batch=2",
            "codebook.size=6",
            "codebook.dim=8",
            "text.width=12",
            "separator_training.after=0",
            "twins.gallery=3",
            *more,
        ]

    return make


class Hospital:
    """One node, asked as a server asks; whatever crosses is serialised and parsed again.

    Attributes:
        context: the node's Flower context.
        config: the run's configuration, but for its folder.
        shared: what the server starts from.
    """

    def __init__(self, overrides: list[str], config: Config, node_config: dict[str, str | int]) -> None:
        self.context = Context(
            run_id=1,
            node_id=2,
            node_config=dict(node_config),
            state=RecordDict(),
            run_config={"overrides": shlex.join(overrides)},
        )
        self.config = config
        self.shared: SharedModel = initial_model(config)

    def ask(self, kind: str, content: RecordDict) -> Message:
        message = Message(copy_over_the_wire(content), dst_node_id=2, message_type=kind)
        return app(with_message_id(message, "message-1"), self.context)

    def hello(self) -> Message:
        return self.ask("query.hello", RecordDict())

    def train(self, number: int = 1, rounds: int = 2, heads: dict[str, str] | None = None) -> Message:
        content = self.content(number, rounds)
        if heads:
            content["ledgers"] = ConfigRecord(dict(heads))
        return self.ask("train", content)

    def evaluate(self, number: int = 1, rounds: int = 2) -> Message:
        return self.ask("evaluate", self.content(number, rounds, self.shared.scored(last=number == rounds)))

    def content(self, number: int, rounds: int, model: SharedModel | None = None) -> RecordDict:
        """What the server sends: the shared model, or what is needed of it, and the round."""
        content = (model or self.shared).records()
        content["round"] = ConfigRecord({"number": number, "rounds": rounds})
        return content


@pytest.fixture(autouse=True)
def _server_process() -> Iterator[None]:
    with acting_as_server(1):
        yield


@pytest.fixture(scope="session")
def config_of(overrides_for: Callable[..., list[str]]) -> Callable[..., Config]:
    """Compose once for many runs: what the tests read of it does not depend on the folder."""
    return cache(lambda *more: compose(overrides_for(Path("/nowhere"), *more)))


@pytest.fixture
def hospital(
    tmp_path: Path, overrides_for: Callable[..., list[str]], config_of: Callable[..., Config]
) -> Callable[..., Hospital]:
    """Make simulated hospital i of a run in ``tmp_path / "run"``."""

    def make(partition: int = 0, *more: str) -> Hospital:
        node_config: dict[str, str | int] = {"partition-id": partition, "num-partitions": SITES}
        return Hospital(overrides_for(tmp_path / "run", *more), config_of(*more), node_config)

    return make


@pytest.fixture
def deployed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides_for: Callable[..., list[str]],
    config_of: Callable[..., Config],
) -> Callable[..., Hospital]:
    """Make a hospital with a node config of its own, of a run in ``tmp_path / "run"``.

    One that knows itself gets a policy that permits everything to the app that was launched, unless it brings its own.
    """
    monkeypatch.setenv(APP_HASH, LAUNCHED)

    def make(node_config: dict[str, str | int], *more: str) -> Hospital:
        if "site-dir" in node_config:
            node_config = {"policy": str(write_policy(tmp_path / "policy.toml")), **node_config}
        return Hospital(overrides_for(tmp_path / "run", *more), config_of(), node_config)

    return make


# --- a finished run, as the commands of a site need it --------------------------------------------------------------

_TINY = ["detector.width=8", "detector.blocks=1", "separator.width=16", "separator.blocks=1", "codebook.size=6"]
_SEEN = {"MI": ("IMI", "ASMI"), "STTC": ("NDT",), "CD": ("CLBBB", "LAFB")}  # no HYP


def _finished_run(folder: Path, *overrides: str, healthy: bool = True, sites: tuple[str, ...] = ("site-0",)) -> Path:
    """A run of untrained networks whose editor draws something to see, and whose detector calls all ECGs healthy."""
    config = compose([*_TINY, *overrides])
    model = initial_model(config)
    for disease, statements in _SEEN.items():
        for code in statements:
            model.codebook["requests"][SUPERCLASSES.index(disease), diagnostic_statements().index(code)] = 1.0
    model.detector["head.bias"] += torch.tensor([8.0 if healthy else -8.0, 0.0, 0.0, 0.0, 0.0])
    networks = make_networks(config, 0)
    with torch.no_grad():
        networks.editor.paint.weight.mul_(3.0)
    model.networks.update(networks.shared(config.federation.share))
    run = RunFolder(folder)
    save_config(config, run.config)
    save_artefact(run.model, model.parts(), {"classes": list(SUPERCLASSES)})
    for site in sites:
        save_private(run.site(site).private_model, networks, 1)
    return run.root


@pytest.fixture(scope="session")
def finished_run() -> Callable[..., Path]:
    """Write a finished run of untrained networks into a folder; see ``_finished_run``."""
    return _finished_run
