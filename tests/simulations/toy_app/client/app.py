"""A site that adds its number to every weight, and says where its code was loaded from."""

import os
import shlex
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.version import VERSION
from lavq_core.models.codebook import STATISTICS

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
    records = message.content.array_records
    content = RecordDict({"metrics": MetricRecord({"num-examples": 1 + 2 * partition})})
    for part in ("detector", "networks"):
        learnt = {name: value + partition for name, value in records[part].to_torch_state_dict().items()}
        content[part] = ArrayRecord(learnt)
    content["codebook"] = ArrayRecord({name: torch.zeros(records["codebook"][name].shape) for name in STATISTICS})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
