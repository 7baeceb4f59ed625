"""The detector as ONNX, and the check that it answers as the one it was made from."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavq_core.errors import LavqError, RunError
from lavq_core.export.onnx_graphs import Graph, graph_of
from lavq_core.models.detector import Detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.signals.leads import INDEPENDENT_LEADS

OPSET = 17
TOLERANCE = 1e-4  # of a probability


def require_onnx() -> tuple[Any, Any]:
    """Import onnx and onnxruntime.

    Raises:
        LavqError: one of them is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise LavqError(
            f"ONNX needs {error.name}: install it with pip install 'lavq[export]', or leave ONNX out with --no-onnx"
        ) from None
    return onnx, onnxruntime


def onnx_name(detector: Detector) -> str:
    """Return the file's name, which says from where on it is the detector."""
    return "detector_head.onnx" if isinstance(detector, FeatureDetector) else "detector.onnx"


def write_onnx(detector: Detector, classes: tuple[str, ...], sampling_rate: int, folder: Path) -> float:
    """Write the detector as one ONNX file, ``onnx_name``, and compare both.

    Output ``probability`` is float32 ``(n, 5)``. A residual network's input is ``ecg``, float32 ``(n, 8, T)`` in mV; n
    and T are free. A features detector's is ``description``, float32 ``(n, size)``; the metadata say which version of
    ``lavq_core.signals.description`` makes that. A combined detector takes both. Leads, classes and rate stand in the
    metadata of each.

    Returns:
        The largest difference of a probability that was found.

    Raises:
        LavqError: see ``require_onnx``.
        RunError: both differ by more than ``TOLERANCE``; nothing was written.
    """
    onnx, onnxruntime = require_onnx()
    graph = graph_of(detector, sampling_rate)
    model = onnx.load_from_string(_convert(graph))
    facts = {
        "leads": json.dumps(INDEPENDENT_LEADS),
        "classes": json.dumps(classes),
        "sampling_rate": str(sampling_rate),
        "note": "research use, not a medical device",
        **graph.facts,
    }
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = _difference(graph, session)
    if not difference <= TOLERANCE:
        raise RunError(f"the ONNX detector differs from the original by {difference:.2g}: export with --no-onnx")
    (folder / onnx_name(detector)).write_bytes(content)
    return difference


def _convert(graph: Graph) -> bytes:
    """Trace the detector.

    By torch's older exporter: the newer one takes twenty times as long, two more libraries and a second file for
    weights this small. What it writes is compared with the original either way.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        file = Path(folder) / "detector.onnx"
        warnings.simplefilter("ignore")  # that there is a newer one
        torch.onnx.export(
            graph.module.eval(),
            graph.examples[0],
            file,
            input_names=list(graph.inputs),
            output_names=["probability"],
            dynamic_axes={**graph.inputs, "probability": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return file.read_bytes()


@torch.no_grad()
def _difference(graph: Graph, session: Any) -> float:
    """Largest difference over the examples."""
    found = 0.0
    for example in graph.examples:
        given = {name: value.numpy() for name, value in zip(graph.inputs, example, strict=True)}
        answer = session.run(None, given)[0]
        found = max(found, float(np.abs(answer - graph.module.eval()(*example).numpy()).max()))
    return found
