"""Runs ML programs without Core ML: reads the saved program and evaluates it operator by operator with torch.

What is read is what Core ML would read, the program's protobuf and its file of weights; none of coremltools' own passes
or type inference lies between. So this checks the graph that was written and its weights. It does not check Core ML's
arithmetic: kernels, fusions, the order of sums, and what the Neural Engine does with 16 bits.

Every operator computes in the program's own types: a tensor that the program has in 16 bits is rounded to 16 bits
after every operator, sums within one are taken in 32. What an operator leaves undefined is an error here, never a
guess; so is an operator, an input of one or an element type that is not known.
"""

from optimum_coreml_interpreter.program import Program

__all__ = ["Program"]
