"""Graph rewrites, one a file: each takes an `onnx_ir.Model`, changes it in place and says how often it did.

A pass never changes what the graph computes, beyond float rounding, and leaves alone what it does not
recognise; `edgeopt.model.simplify` runs them on a copy and checks the result against the original.
"""

from edgeopt.model.passes.batchnorm import expand_batchnorm, fold_batchnorm
from edgeopt.model.passes.dead import remove_dead
from edgeopt.model.passes.identity import remove_identities
from edgeopt.model.passes.pooling import mean_to_pool
from edgeopt.model.passes.reshape import fix_reshapes
from edgeopt.model.passes.transpose import fold_transposes

__all__ = [
    "expand_batchnorm",
    "fix_reshapes",
    "fold_batchnorm",
    "fold_transposes",
    "mean_to_pool",
    "remove_dead",
    "remove_identities",
]
