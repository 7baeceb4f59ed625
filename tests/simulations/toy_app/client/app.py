"""A site that adds its number to every weight, and says where its code was loaded from."""

import os
import shlex
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.version import VERSION
from lavq_core.models.codebook import STATISTICS
from server.packing import PARTS, pack, unpack

app = ClientApp()


def _settings(context: Context) -> dict[str, str]:
    return dict(item.split("=", 1) for item in shlex.split(str(context.run_config["overrides"])))


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    trace = Path(_settings(context)["run.dir"]) / f"site-{partition}.txt"
    trace.write_text("\n".join([VERSION, __file__, str(Path.cwd()), os.environ["OMP_NUM_THREADS"]]))
    return Message(RecordDict({"site": ConfigRecord({"name": f"site-{partition}"})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    if _settings(context).get("break_site") == str(partition):
        raise ValueError("patient Jane Doe")
    parts = unpack(message.content.array_records[PARTS])
    for part in ("detector", "networks"):
        parts[part] = {name: value + partition for name, value in parts[part].items()}
    parts["codebook"] = {name: torch.zeros_like(parts["codebook"][name]) for name in STATISTICS}
    metrics = MetricRecord({"num-examples": 1 + 2 * partition})
    return Message(RecordDict({PARTS: pack(parts), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
