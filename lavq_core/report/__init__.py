"""The run report: one self-contained HTML file in which every number comes from the run's own files."""

from lavq_core.report.build import build_report

__all__ = ["build_report"]
