"""Pictures: calibrated ECG paper and the curves of a run, as matplotlib figures without a display or pyplot state."""

from lavq_core.plots.ecg_paper import draw_ecg
from lavq_core.plots.files import save_figure, svg_markup

__all__ = ["draw_ecg", "save_figure", "svg_markup"]
