"""Report: report.json is the truth; markdown, HTML and the terminal tables are views of it."""

from edgeopt.report.limits import ALL_TIERS, Limits, Verdict
from edgeopt.report.report import (
    ACCURACY,
    MAP,
    Baseline,
    Change,
    ClassChange,
    DataRow,
    Environment,
    Layer,
    Moment,
    Report,
    Row,
    StageRow,
    read_report,
    report_path,
    write_report,
)

__all__ = [
    "ACCURACY",
    "ALL_TIERS",
    "MAP",
    "Baseline",
    "Change",
    "ClassChange",
    "DataRow",
    "Environment",
    "Layer",
    "Limits",
    "Moment",
    "Report",
    "Row",
    "StageRow",
    "Verdict",
    "read_report",
    "report_path",
    "write_report",
]
