"""The detector as ONNX, and the check that it answers as the one it was made from."""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lavq_core.errors import LavqError, RunError
from lavq_core.models.detector import Detector
from lavq_core.models.feature_detector import FeatureDetector, standard
from lavq_core.signals.description import VERSION
from lavq_core.signals.leads import INDEPENDENT_LEADS
from lavq_core.signals.quality import DURATION

OPSET = 17
TOLERANCE = 1e-4  # of a probability
_SHAPES = ((1, 1.0), (3, 0.92), (2, 1.0))  # records, and share of 10 s, that are compared


class _OfEcg(nn.Module):
    """A network's logits turned into probabilities."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, ecg: Tensor) -> Tensor:
        """Map ``(n, 8, T)`` mV to ``(n, 5)``."""
        return torch.sigmoid(self.detector(ecg))


class _OfDescription(nn.Module):
    """The same of a features detector, from the description on."""

    def __init__(self, detector: FeatureDetector) -> None:
        super().__init__()
        self.head, self.centre = detector.head, detector.centre

    def forward(self, description: Tensor) -> Tensor:
        """Map ``(n, size)`` to ``(n, 5)``."""
        return torch.sigmoid(self.head(standard(description, self.centre)))


@dataclass(frozen=True)
class _Graph:
    """What becomes the file."""

    module: nn.Module
    free: dict[int, str]  # dimensions of the input that are not fixed
    examples: list[Tensor]  # inputs on which file and original are compared; the first is traced
    facts: dict[str, str]  # of the metadata, what is this kind's own

    @property
    def takes(self) -> str:
        """Name of the input."""
        return "ecg" if isinstance(self.module, _OfEcg) else "description"


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

    Output ``probability`` is float32 ``(n, 5)``. A network's input is ``ecg``, float32 ``(n, 8, T)`` in mV; n and T are
    free. A features detector finds R peaks and median beats, which no graph does: its file starts at ``description``,
    float32 ``(n, size)``, and says in its metadata which version of ``lavq_core.signals.description`` makes that.
    Leads, classes and rate stand in the metadata of both.

    Returns:
        The largest difference of a probability that was found.

    Raises:
        LavqError: see ``require_onnx``.
        RunError: both differ by more than ``TOLERANCE``; nothing was written.
    """
    onnx, onnxruntime = require_onnx()
    graph = _of_features(detector) if isinstance(detector, FeatureDetector) else _of_network(detector, sampling_rate)
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


def _of_network(detector: Detector, sampling_rate: int) -> _Graph:
    """Compare over noise of an ECG's size, several batch sizes and lengths."""
    generator, examples = torch.Generator().manual_seed(0), []
    for records, share in _SHAPES:
        steps = torch.randn(
            records, len(INDEPENDENT_LEADS), round(share * DURATION * sampling_rate), generator=generator
        )
        examples.append(0.1 * steps.cumsum(dim=-1) / 10.0 + 0.2 * steps)  # wander and noise, mV
    return _Graph(_OfEcg(detector), {0: "n", 2: "T"}, examples, {"unit": "mV"})


def _of_features(detector: FeatureDetector) -> _Graph:
    """Compare over descriptions near the centre, which keep their length, and far from it, which are cut to one."""
    generator, size = torch.Generator().manual_seed(0), len(detector.centre)
    examples = [
        detector.centre + length * torch.randn(records, size, generator=generator) / size**0.5
        for records, length in ((1, 1.0), (3, 0.1), (2, 3.0), (1, 0.0))
    ]
    facts = {
        "description_version": str(VERSION),
        "description_size": str(size),
        "description_made_by": "lavq_core.signals.description.describe",
    }
    if detector.network:
        facts["description_made_by"] += " and, appended, lavq_core.models.pretrained.PretrainedNetwork.describe"
        facts["pretrained"] = detector.network.key
        facts["pretrained_sha256"] = detector.network.sha256
    return _Graph(_OfDescription(detector), {0: "n"}, examples, facts)


def _convert(graph: _Graph) -> bytes:
    """Trace the detector.

    By torch's older exporter: the newer one takes twenty times as long, two more libraries and a second file for
    weights this small. What it writes is compared with the original either way.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        file = Path(folder) / "detector.onnx"
        warnings.simplefilter("ignore")  # that there is a newer one
        torch.onnx.export(
            graph.module.eval(),
            (graph.examples[0],),
            file,
            input_names=[graph.takes],
            output_names=["probability"],
            dynamic_axes={graph.takes: graph.free, "probability": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return file.read_bytes()


@torch.no_grad()
def _difference(graph: _Graph, session: Any) -> float:
    """Largest difference over the examples."""
    found = 0.0
    for example in graph.examples:
        answer = session.run(None, {graph.takes: example.numpy()})[0]
        found = max(found, float(np.abs(answer - graph.module.eval()(example).numpy()).max()))
    return found
