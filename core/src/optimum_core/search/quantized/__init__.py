"""From the best unquantized model to the fastest quantized one that keeps a promise.

`setup` prepares the `data`; the `search` goes on from the winner, or from another `start` where that breaks the
promise: the `survey` tries every way once, `recipes` are what may follow, the `evaluator` holds each to the promise,
and the `log` has the trials.
"""
