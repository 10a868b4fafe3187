"""The gate: limits, and `check(report, limits) -> verdicts`. Loads neither torch nor onnx.

What passes and what does not:

- A figure that is counted (bytes, multiply-adds) is on one side of its limit or on the other.
- One that was sampled passes when it is on the right side at one-sided 95 %, and fails when it is on the wrong one;
  in between the samples cannot tell. That fails too, unless `allow_uncertain` lets the measured figure decide.
- A limit on a figure that the report does not have fails and says so: a gate never passes on silence.
- Artifacts are compared with what was measured: a file that is missing or was changed since fails.
- Limits that are given replace the ones the recipe recorded; they are not added to them.
"""

from edgeopt.gate.baseline import Regression, check_change, parse_regression
from edgeopt.gate.check import check, check_file, check_files, doubts, failure, judge_again
from edgeopt.gate.judge import RULES
from edgeopt.gate.read import bounds_nothing, limits_of, merge_limits, parse_flags, read_limits
from edgeopt.report.limits import Limits, Verdict

__all__ = [
    "RULES",
    "Limits",
    "Regression",
    "Verdict",
    "bounds_nothing",
    "check",
    "check_change",
    "check_file",
    "check_files",
    "doubts",
    "failure",
    "judge_again",
    "limits_of",
    "merge_limits",
    "parse_flags",
    "parse_regression",
    "read_limits",
]
