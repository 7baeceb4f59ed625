"""The science of LAVQ: signals, data, text, models, training, metrics and pictures. Knows nothing of Flower.

Five lines load a run, score an ECG and make digital twins of it::

    import lavq_core

    run = lavq_core.load_run("runs/demo")
    ecg = run.read("simulations/sample/records100/00000/00059_lr")
    print(run.detect(ecg))
    for number, twin in enumerate(run.twins(ecg, "MI", count=2), start=1):
        lavq_core.write_ecg(f"twin-{number}.dcm", twin)

Names are looked up when they are first used, so that importing the package takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavq_core.api import Run, load_run
    from lavq_core.data.records import Ecg
    from lavq_core.errors import LavqError
    from lavq_core.formats.reading import read_ecg
    from lavq_core.formats.writing import write_ecg

__all__ = ["Ecg", "LavqError", "Run", "load_run", "read_ecg", "write_ecg"]

_PLACES = {
    "Ecg": "lavq_core.data.records",
    "LavqError": "lavq_core.errors",
    "Run": "lavq_core.api",
    "load_run": "lavq_core.api",
    "read_ecg": "lavq_core.formats.reading",
    "write_ecg": "lavq_core.formats.writing",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'lavq_core' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
