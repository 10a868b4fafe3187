"""The files: what a C or C++ compiler says of them, and what they promise."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from qdq_graphs import Net, Tensor

from edgeopt.errors import StageFailed
from edgeopt.mcu import compile_model, objections
from edgeopt.mcu.build import run_on_host, write_files
from edgeopt.mcu.compile import Compiled
from edgeopt.mcu.reference import Reference
from edgeopt.model import Model

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler: apt-get install gcc")
STRICT = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-c", "-o", "/dev/null"]

MAIN = """
#include "model.h"
#include "model_test.h"
int main(void)
{
    int8_t output[MODEL_OUTPUT_SIZE];
    int i, k, different = 0;
    for (i = 0; i < MODEL_TEST_COUNT; i++) {
        for (k = 0; k < MODEL_INPUT_SIZE; k++) model_input()[k] = model_test_input[i][k];
        model_run(model_input(), output);
        for (k = 0; k < MODEL_OUTPUT_SIZE; k++) different += output[k] != model_test_output[i][k];
    }
    return different != 0;
}
"""


def everything(net: Net) -> Tensor:
    """A graph that needs nearly every kernel file."""
    x = net.conv(net.x, 6, pads=[1, 1, 1, 1])
    y = net.conv(net.same(x, "MaxPool", kernel_shape=[2, 2]), 6, group=6)
    y = net.average(net.unary(net.conv(y, 6, group=2), "HardSwish"), kernel_shape=[2, 2])
    y = net.mul(y, net.average(y, "GlobalAveragePool"))
    y = net.concat(net.add(y, y), y)
    pads = net.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64))
    return net.softmax(net.gemm(net.same(net.same(y, "Pad", pads), "Flatten"), 5))


@pytest.fixture(scope="module")
def model() -> Model:
    net = Net(3, 9, 11)
    return net.model(everything(net))


@pytest.fixture(scope="module")
def compiled(model: Model) -> Compiled:
    return compile_model(model)


@needs_compiler
@pytest.mark.parametrize(
    "compiler", ["gcc -std=c99", "gcc -std=c11 -O0", "gcc -std=c99 -DMODEL_PLAIN_C", "g++ -std=c++11"]
)
def test_no_warnings(compiled: Compiled, compiler: str, tmp_path: Path) -> None:
    write_files(compiled, tmp_path)
    words = compiler.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}")
    if words[0] == "g++":  # the header is for both languages, the program is C
        (tmp_path / "use.cpp").write_text('#include "model.h"\nint main() { return model_quantize(0.5f); }\n')
        subprocess.run([*words, *STRICT, str(tmp_path / "use.cpp")], check=True)
    else:
        subprocess.run([*words, *STRICT, str(tmp_path / "model.c")], check=True)


@needs_compiler
def test_the_test_vectors_pass_from_the_arena(compiled: Compiled, tmp_path: Path) -> None:
    write_files(compiled, tmp_path)
    (tmp_path / "main.c").write_text(MAIN)
    program = tmp_path / "main"
    subprocess.run(
        ["gcc", "-O1", *map(str, (tmp_path / "main.c", tmp_path / "model.c")), "-o", str(program)], check=True
    )
    assert subprocess.run([str(program)], check=False).returncode == 0


@needs_compiler
def test_memory_is_not_touched_outside(compiled: Compiled, model: Model, tmp_path: Path) -> None:
    write_files(compiled, tmp_path)
    (tmp_path / "main.c").write_text(MAIN)
    program = tmp_path / "main"
    words = ["gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [*words, str(tmp_path / "main.c"), str(tmp_path / "model.c"), "-o", str(program)], check=False
    )
    if built.returncode:
        pytest.skip("needs gcc's sanitizers")
    assert subprocess.run([str(program)], check=False).returncode == 0


@needs_compiler
def test_symbols_take_the_name(model: Model, tmp_path: Path) -> None:
    named = compile_model(model, name="keyword")
    assert set(named.files) == {"keyword.c", "keyword.h", "keyword_test.h", "keyword.mk", "README"}
    reference = Reference(model, named.program)
    inputs = reference.noise(2, seed=5)
    assert (run_on_host(named, inputs, tmp_path) == reference.run(inputs)).all()


def test_only_needed_kernels_are_there() -> None:
    net = Net(4, 5, 5)
    text = compile_model(net.model(net.unary(net.x, "Tanh"))).files["model.c"]
    assert "void table(" in text
    assert not re.search(r"void (conv|add|maxpool|softmax|grouped)\(", text)


def test_c_library_is_string_h_alone(compiled: Compiled) -> None:
    includes = set(re.findall(r"#include [<\"](.+)[>\"]", compiled.files["model.c"]))
    assert includes == {"model.h", "stddef.h", "string.h", "arm_mve.h"}
    assert "malloc" not in compiled.files["model.c"]


def test_two_compilations_are_equal(model: Model, compiled: Compiled) -> None:
    assert compile_model(model).files == compiled.files


def test_operators_without_a_kernel_are_all_named() -> None:
    net = Net(3, 8, 8)
    x = net.same(net.x, "Resize", "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    model = net.model(net.unary(net.unary(x, "Erf"), "Sin"))
    found = objections(model)
    assert [sentence.split()[0] for sentence in found] == ["Resize", "Erf", "Sin"]
    assert "nearest" in found[0]
    with pytest.raises(StageFailed, match="Resize"):
        compile_model(model)
