"""The report of a study: one self-contained page, the table and figures for a paper; several runs side by side."""

from qcam.evaluate.report.options import BUDGET, COLORMAPS, ReportOptions
from qcam.evaluate.report.write import write_report

__all__ = ["BUDGET", "COLORMAPS", "ReportOptions", "write_report"]
