"""The files that teams copy work: the action's steps, the GitLab job, the pre-commit hook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from junitparser import JUnitXml

from edgeopt.gate.formats import MARKER

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "models" / "digits"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
GH = """#!/bin/bash
printf '%s\\n' "$*" >> "$GH_LOG"
[[ "$*" == *--jq* ]] && cat "$GH_EXISTING"
exit 0
"""
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def runner(tmp_path: Path) -> dict[str, str]:
    """What GitHub sets for a job, with a `gh` and a `pip` that only write down what they were asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "gh").write_text(GH)
    (tools / "python").write_text('#!/bin/bash\nprintf "%s\\n" "$*" >> "$PIP_LOG"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    for name in ("existing", "output", "summary"):
        (tmp_path / name).touch()
    (tmp_path / "temp").mkdir()
    scripts = Path(sys.executable).parent
    return {
        "PATH": f"{tools}:{scripts}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "GITHUB_REPOSITORY": "us/ours",
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GH_LOG": str(tmp_path / "gh.log"),
        "GH_EXISTING": str(tmp_path / "existing"),
        "PIP_LOG": str(tmp_path / "pip.log"),
    }


def fill(text: str, known: dict[str, str]) -> str:
    """`text` with its `${{ }}` expressions, which are all names, replaced."""
    return re.sub(r"\$\{\{ *([^ }]+) *\}\}", lambda match: known[match[1]], text)


def run_action(given: dict[str, str], runner: dict[str, str], cwd: Path) -> tuple[int, str]:
    """The steps of action.yml, as the runner would run them for a pull request. Exit code and all output."""
    inputs = {name: str(entry["default"]) for name, entry in ACTION["inputs"].items()} | given
    context = {f"inputs.{name}": value for name, value in inputs.items()}
    context |= {"github.token": "secret", "github.event.pull_request.number": "7"}
    shown = ""
    for step in ACTION["runs"]["steps"]:
        if "run" not in step or (step["name"] == "Run the recipe" and not inputs["recipe"]):
            continue
        if step["name"] == "Comment" and inputs["comment"] != "true":
            continue
        outputs = dict(line.split("=", 1) for line in Path(runner["GITHUB_OUTPUT"]).read_text().splitlines())
        known = context | {f"steps.gate.outputs.{name}": value for name, value in outputs.items()}
        env = {name: fill(str(value), known) for name, value in step.get("env", {}).items()}
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]  # as `shell: bash` is
        done = subprocess.run(command, cwd=cwd, env=runner | env, capture_output=True, text=True, timeout=120)
        shown += done.stdout + done.stderr
        if done.returncode:
            return done.returncode, shown
    return 0, shown


def test_the_action_installs_gates_annotates_and_comments(runner: dict[str, str], tmp_path: Path) -> None:
    code, shown = run_action({"report": str(DIGITS / "report.json")}, runner, tmp_path)
    assert code == 0, shown
    assert f"pip install {ROOT}" in Path(runner["PIP_LOG"]).read_text()
    assert "::notice title=edgeopt gate::all" in shown
    assert Path(runner["GITHUB_STEP_SUMMARY"]).read_text().startswith(MARKER)
    assert "--method POST repos/us/ours/issues/7/comments" in Path(runner["GH_LOG"]).read_text()


def test_the_action_fails_the_build_and_says_why(runner: dict[str, str], tmp_path: Path) -> None:
    Path(runner["GH_EXISTING"]).write_text("4711\n")
    given = {"report": str(DIGITS / "report.json"), "args": "--max-size mcu=1KB"}
    code, shown = run_action(given, runner, tmp_path)
    assert code == 1
    assert "::error file=" in shown
    junit = JUnitXml.fromfile(str(tmp_path / "temp" / "edgeopt-gate.xml"))
    assert junit.failures == 1
    assert "--method PATCH repos/us/ours/issues/comments/4711" in Path(runner["GH_LOG"]).read_text()


def test_inputs_of_the_action_are_data_and_not_code(runner: dict[str, str], tmp_path: Path) -> None:
    run_action(
        {"report": "$(touch hacked).json", "limits": "`touch hacked`", "args": "; touch hacked"}, runner, tmp_path
    )
    assert not (tmp_path / "hacked").exists()


def test_no_step_of_the_action_puts_an_expression_into_a_script() -> None:
    assert not [step for step in ACTION["runs"]["steps"] if "${{" in step.get("run", "")]


def test_the_actions_comment_is_found_again_by_the_marker_of_the_gate() -> None:
    comment = next(step for step in ACTION["runs"]["steps"] if step.get("name") == "Comment")
    assert MARKER in comment["run"]


def test_the_workflow_that_is_copied_gives_the_action_inputs_that_it_has() -> None:
    workflow = yaml.safe_load((ROOT / "docs" / "ci" / "github-gate.yml").read_text())
    steps: list[dict[str, Any]] = workflow["jobs"]["gate"]["steps"]
    ours = next(step for step in steps if step["uses"].startswith("edgeopt/"))
    assert set(ours["with"]) <= set(ACTION["inputs"])


def test_the_gitlab_job_leaves_a_junit_file_that_others_can_read(runner: dict[str, str], tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / "docs" / "ci" / "gitlab-ci.yml").read_text())["gate"]
    shutil.copytree(DIGITS, tmp_path / "out")
    gate = [line for line in job["script"] if line.startswith("edgeopt gate")]
    done = subprocess.run(["bash", "-ec", "\n".join(gate)], cwd=tmp_path, env=runner, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    junit = JUnitXml.fromfile(str(tmp_path / job["artifacts"]["reports"]["junit"]))
    assert junit.tests > 0
    assert junit.failures == 0


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_pre_commit_hook_stops_a_commit_of_a_model_that_is_too_big(runner: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("pre_commit")
    env = runner | {
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }

    def sh(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-ec", command], cwd=cwd, env=env, capture_output=True, text=True)

    hooks, mine = tmp_path / "edgeopt", tmp_path / "mine"
    for folder in (hooks, mine):
        folder.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    assert sh("git init -q && git add -A && git commit -qm hooks && git tag v0.1.0", hooks).returncode == 0
    config = yaml.safe_load((ROOT / "docs" / "ci" / "pre-commit-config.yaml").read_text())
    config["repos"][0]["repo"] = str(hooks)
    (mine / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    (mine / "limits.yaml").write_text("all: {size: 50KB}\n")
    shutil.copy(DIGITS / "student.onnx", mine / "model.onnx")
    python = shutil.which("python", path=str(Path(sys.executable).parent))
    install = f"git init -q && {python} -m pre_commit install && git add -A"
    assert sh(install, mine).returncode == 0
    stopped = sh("git commit -qm big", mine)
    assert stopped.returncode == 1
    assert "size" in stopped.stdout + stopped.stderr
    shutil.copy(DIGITS / "mcu" / "model.onnx", mine / "model.onnx")
    passed = sh("git add -A && git commit -qm small", mine)
    assert passed.returncode == 0, passed.stdout + passed.stderr
