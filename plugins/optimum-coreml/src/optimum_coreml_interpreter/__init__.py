"""Interpreter of ML programs without Core ML: reads the saved program and evaluates it operator by operator with torch.

It reads the same files as Core ML, the program's protobuf and its file of weights, without any of coremltools' own
passes or type inference. So it checks the graph that was written and its weights. It does not check Core ML's
arithmetic: kernels, fusions, the order of sums, and the Neural Engine's handling of 16 bits.

Every operator computes in the program's own types: a tensor that the program has in 16 bits is rounded to 16 bits
after every operator, sums within one are taken in 32. Undefined behaviour of an operator is an error here, never a
guess; so is an unknown operator, input or element type.
"""

from optimum_coreml_interpreter.program import Program

__all__ = ["Program"]
