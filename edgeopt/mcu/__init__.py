"""Microcontrollers: from a quantized graph to C that fits, runs, and computes what onnxruntime computes.

`read` makes a typed program of the Q/DQ graph, `lower` chooses each operator's kernel and packs its weights, `arena`
and `plan` place its tensors in one arena, `write` puts the texts together; `compile` is the way through all of them.
The kernels are C files in `kernels/`, pasted into the program as they are. `build` compiles and runs a program, on
this machine or on a core in QEMU, and `reference` is what it is held to.
"""

from edgeopt.mcu.compile import Compiled, check_ram, compile_model, describe
from edgeopt.mcu.objections import objections

__all__ = ["Compiled", "check_ram", "compile_model", "describe", "objections"]
