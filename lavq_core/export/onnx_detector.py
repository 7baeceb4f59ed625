"""The detector as ONNX, and the check that it answers as the one it was made from."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lavq_core.errors import LavqError, RunError
from lavq_core.models.combined_detector import CombinedDetector
from lavq_core.models.detector import Detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.signals.leads import INDEPENDENT_LEADS
from lavq_core.signals.quality import DURATION

OPSET = 17
TOLERANCE = 1e-4  # of a probability
_SHAPES = ((1, 1.0), (3, 0.92), (2, 1.0))  # records, and share of 10 s, that are compared


class _Probabilities(nn.Module):
    """The detector with its logits turned into probabilities."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, ecg: Tensor) -> Tensor:
        """Map ``(n, 8, T)`` mV to ``(n, 5)``."""
        return torch.sigmoid(self.detector(ecg))


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


def write_onnx(detector: Detector, classes: tuple[str, ...], sampling_rate: int, path: Path) -> float:
    """Write the detector as one ONNX file and compare both.

    Input ``ecg`` is float32 ``(n, 8, T)`` in mV, output ``probability`` ``(n, 5)``; n and T are free. Leads, classes
    and rate stand in the file's metadata.

    Returns:
        The largest difference of a probability that was found.

    Raises:
        LavqError: see ``require_onnx``.
        RunError: the detector is no network, or both differ by more than ``TOLERANCE``; nothing was written.
    """
    onnx, onnxruntime = require_onnx()
    if isinstance(detector, FeatureDetector | CombinedDetector):
        raise RunError("this detector describes ECGs outside of any network: export with --no-onnx")
    content = _convert(detector, sampling_rate)
    model = onnx.load_from_string(content)
    facts = {
        "leads": json.dumps(INDEPENDENT_LEADS),
        "classes": json.dumps(classes),
        "sampling_rate": str(sampling_rate),
        "unit": "mV",
        "note": "research use, not a medical device",
    }
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = _difference(_Probabilities(detector), session, round(DURATION * sampling_rate))
    if not difference <= TOLERANCE:
        raise RunError(f"the ONNX detector differs from the original by {difference:.2g}: export with --no-onnx")
    path.write_bytes(content)
    return difference


def _convert(detector: Detector, sampling_rate: int) -> bytes:
    """Trace the detector.

    By torch's older exporter: the newer one takes twenty times as long, two more libraries and a second file for
    weights this small. What it writes is compared with the original either way.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        file = Path(folder) / "detector.onnx"
        warnings.simplefilter("ignore")  # that there is a newer one
        torch.onnx.export(
            _Probabilities(detector).eval(),
            (torch.zeros(1, len(INDEPENDENT_LEADS), round(DURATION * sampling_rate)),),
            file,
            input_names=["ecg"],
            output_names=["probability"],
            dynamic_axes={"ecg": {0: "n", 2: "T"}, "probability": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return file.read_bytes()


@torch.no_grad()
def _difference(original: nn.Module, session: Any, samples: int) -> float:
    """Largest difference over noise of an ECG's size, several batch sizes and lengths."""
    generator, found = torch.Generator().manual_seed(0), 0.0
    for records, share in _SHAPES:
        steps = torch.randn(records, len(INDEPENDENT_LEADS), round(share * samples), generator=generator)
        ecg = 0.1 * steps.cumsum(dim=-1) / 10.0 + 0.2 * steps  # wander and noise, mV
        answer = session.run(None, {"ecg": ecg.numpy()})[0]
        found = max(found, float(np.abs(answer - original.eval()(ecg).numpy()).max()))
    return found
