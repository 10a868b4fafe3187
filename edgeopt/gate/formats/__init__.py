"""The verdicts in the forms that CI systems read. Each form is one file with one function."""

from edgeopt.gate.formats.checked import Checked
from edgeopt.gate.formats.github import to_annotations
from edgeopt.gate.formats.json import to_json
from edgeopt.gate.formats.junit import to_junit
from edgeopt.gate.formats.markdown import MARKER, to_markdown

__all__ = ["MARKER", "Checked", "to_annotations", "to_json", "to_junit", "to_markdown"]
