"""The report of a study: one self-contained page, the table and figures for a paper; several runs side by side.

The options are here; `write.write_report` writes it. That needs the templates' and charts' libraries, which a device that only
runs bundles has not: `qcam-eval` must start without them.
"""

from qcam.evaluate.report.options import BUDGET, ReportOptions

__all__ = ["BUDGET", "ReportOptions"]
