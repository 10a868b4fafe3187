"""The C text: `model.c` from kernels, constants and calls; `model.h`; test vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from edgeopt.mcu.arena import Arena
from edgeopt.mcu.call import Array, ByCore, Call, literal, numbers
from edgeopt.mcu.cores import HELIUM, PAIRS, Packing
from edgeopt.mcu.program import Conv, Program, Tensor
from edgeopt.mcu.strides import DEPTH

__all__ = ["Source", "write_header", "write_source", "write_tests"]

KERNELS = files("edgeopt.mcu") / "kernels"


@dataclass(frozen=True)
class Source:
    """What the texts are made from."""

    name: str
    """Prefix of every public symbol: model_run, MODEL_INPUT_SIZE ..."""
    title: str
    program: Program
    calls: Sequence[Call]
    arena: Arena


def write_source(source: Source) -> str:
    """`NAME.c`: kernels that the model needs, its constants, and `NAME_run`."""
    calls = [own for call in source.calls for own in (call, *call.parts)]
    parts = [
        f'/* {source.title}: see {source.name}.h. Generated; do not edit. */\n\n#include "{source.name}.h"\n\n'
        "#include <stddef.h>\n#include <string.h>\n",
        _kernels(calls),
        "/* ---- the model " + "-" * 100 + " */\n",
        _by_core_macro(),
        *(_constants(call) for call in calls),
        _arena(source),
        _run(source),
    ]
    return "\n".join(part for part in parts if part)


def write_header(source: Source) -> str:
    """`NAME.h`: sizes and scales as macros, `NAME_run`, and how to come from and to real numbers."""
    text = (files("edgeopt.mcu") / "templates" / "model.h").read_text()
    program, plans = source.program, source.arena.plans
    answers = {
        "title": source.title,
        "macs": f"{program.macs:,}",
        "input_shape": " x ".join(map(str, program.input_shape)),
        "input_axes": _axes(program.input_shape),
        "output_shape": " x ".join(map(str, program.output_shape)) or "1",
        "output_axes": _axes(program.output_shape),
        "input_size": program.input.size,
        "output_size": program.output.size,
        "arena_pairs": plans[PAIRS].size,
        "arena_helium": plans[HELIUM].size,
        "input_scale": literal(program.input.scale),
        "input_zero": program.input.zero,
        "output_scale": literal(program.output.scale),
        "output_zero": program.output.zero,
    }
    for key, value in answers.items():
        text = text.replace(f"@{key}@", str(value))
    return text.replace("MODEL", source.name.upper()).replace("model_", f"{source.name}_")


def write_tests(source: Source, inputs: np.ndarray, outputs: np.ndarray) -> str:
    """`NAME_test.h`: int8 inputs [count, size] and what onnxruntime makes of them."""
    name, big, program = source.name, source.name.upper(), source.program
    return (
        f"/* Inputs of {source.title}, and what onnxruntime makes\n   of them: {name}_run has to give the same. */\n"
        f"#ifndef {big}_TEST_H\n#define {big}_TEST_H\n\n#include <stdint.h>\n\n"
        f"#define {big}_TEST_COUNT {len(inputs)}\n\n"
        f"static const int8_t {name}_test_input[{big}_TEST_COUNT][{program.input.size}] = {{\n"
        + "".join(f"    {{{numbers(row)}}},\n" for row in inputs)
        + f"}};\n\nstatic const int8_t {name}_test_output[{big}_TEST_COUNT][{program.output.size}] = {{\n"
        + "".join(f"    {{{numbers(row)}}},\n" for row in outputs)
        + "};\n\n#endif\n"
    )


def _kernels(calls: Sequence[Call]) -> str:
    """Texts of the kernel files that the calls need, each once, after the core's."""
    needed = dict.fromkeys(kernel for call in calls for kernel in call.kernels)
    texts = [(KERNELS / "core.c").read_text()]
    if "conv" in needed:
        texts.append(f"#define CONV_MAX_RUNS {max(call.runs for call in calls)}\n")
        if any(isinstance(call.op, Conv) and call.op.alternate for call in calls):
            texts.append("#define CONV_ALTERNATE 1 /* some rows are in blocks of three pixels */\n")
    if "move" in needed:
        texts.append(f"#define MOVE_DEPTH {DEPTH}\n")
    texts += [(KERNELS / f"{kernel}.c").read_text() for kernel in needed]
    if "conv" in needed:
        instances = sorted({call.instance for call in calls if call.instance})
        rows = "".join(f"CONV_ROW({name}, {step}, {advance})\n" for name, step, advance in instances)
        texts.append(
            f"#if defined(KERNELS_DSP)\n{rows}#define CONV_ROW_KERNEL(name) conv_row_##name\n#else\n"
            "#define CONV_ROW_KERNEL(name) conv_row\n#endif\n"
        )
    return "\n".join(texts)


def _by_core_macro() -> str:
    return (
        "#if defined(KERNELS_HELIUM)\n#define BY_CORE(pairs, helium) helium\n#else\n"
        "#define BY_CORE(pairs, helium) pairs\n#endif\n"
        "#if defined(__GNUC__)\n#define WORDS __attribute__((aligned(4)))\n#else\n#define WORDS\n#endif\n"
    )


def _constants(call: Call) -> str:
    op = call.op
    given = [Array(t.name, "int8_t", numbers(t.data)) for t in dict.fromkeys(op.inputs) if t.data is not None]
    text = f"/* {op.layer} */\n" if call.arrays or call.struct or given else ""
    text += "".join(_array(array) for array in given)
    text += "".join(_array(array) for array in call.arrays)
    if call.struct:
        fields = "".join(f"    .{name} = {_field(value)},\n" for name, value in call.fields.items())
        text += f"static const {call.struct} {op.output.name} = {{\n{fields}}};\n"
    return text


def _array(array: Array) -> str:
    if not array.packed:
        return f"static const {array.kind} {array.name}[] WORDS = {{\n    {array.text}\n}};\n"
    helium, pairs = (
        f"static const {array.kind} {array.name}[] WORDS = {{\n    {array.packed[packing]}\n}};\n"
        for packing in (HELIUM, PAIRS)
    )
    return helium if helium == pairs else f"#if defined(KERNELS_HELIUM)\n{helium}#else\n{pairs}#endif\n"


def _field(value: object) -> str:
    if not isinstance(value, ByCore):
        return literal(value)
    pairs, helium = value.values[PAIRS], value.values[HELIUM]
    return str(pairs) if pairs == helium else f"BY_CORE({pairs}, {helium})"


def _arena(source: Source) -> str:
    """Offsets of the tensors. They differ between packings, whose scratch memory does."""
    pairs, helium = (_offsets(source, packing) for packing in (PAIRS, HELIUM))
    width = max(map(len, pairs), default=0) + 3
    lines = [f"#define {'AT_' + name.upper():<{width}} BY_CORE({pairs[name]}, {helium[name]})\n" for name in pairs]
    return (
        "/* Where each tensor lies in the arena while it is needed; an output may lie over its input. */\n"
        + "".join(lines)
        + "\nstatic union {\n    int64_t alignment;\n"
        + f"    int8_t bytes[{source.name.upper()}_ARENA_BYTES];\n}} arena;\n"
    )


def _offsets(source: Source, packing: Packing) -> dict[str, int]:
    """Those of the plan, and of what has a place in a call's scratch memory."""
    found = dict(source.arena.plans[packing].offsets)
    for call in source.calls:
        if call.inside:
            begin = found[f"{call.op.output.name}_scratch"]
            found |= {name: begin + offset for name, offset in call.inside[packing].items()}
    return found


def _run(source: Source) -> str:
    name, program = source.name, source.program
    lines = []
    for call in source.calls:
        places = [_place(tensor, program) for tensor in call.op.inputs]
        scratch = f"arena.bytes + AT_{call.op.output.name.upper()}_SCRATCH"
        statement = call.text.format(*places, out=_place(call.op.output, program), scratch=scratch)
        lines.append(f"    {statement}{'' if statement.endswith(('}', ';')) else ';'}\n")
    if not source.calls:
        lines.append(f"    memcpy(output, input, {program.output.size});\n")
    place = f"arena.bytes + AT_{program.input.name.upper()}" if source.calls else "arena.bytes"
    return (
        f"int8_t *{name}_input(void) {{ return {place}; }}\n\n"
        f"int {name}_run(const int8_t *input, int8_t *output)\n{{\n{''.join(lines)}    return 0;\n}}\n"
    )


def _place(tensor: Tensor, program: Program) -> str:
    if tensor is program.input:
        return "input"
    if tensor.data is not None:
        return tensor.name
    return "output" if tensor is program.output else f"arena.bytes + AT_{tensor.name.upper()}"


def _axes(shape: tuple[int, ...]) -> str:
    return {3: "[height][width][channels]", 2: "[width][channels]"}.get(len(shape), "[elements]")
