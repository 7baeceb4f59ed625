"""Pictures: calibrated ECG paper and the curves of a run, as matplotlib figures without a display or pyplot state."""

from lavq_core.plots.ecg_paper import draw_ecg
from lavq_core.plots.files import save_figure, svg_markup
from lavq_core.plots.median_beats import draw_median_beats

__all__ = ["draw_ecg", "draw_median_beats", "save_figure", "svg_markup"]
