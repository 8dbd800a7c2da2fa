"""The search for the fastest quantized model that keeps a promise, starting from the best unquantized one.

`setup` prepares the `data`; the `recipe_search` continues from the winner, or from another `starting_point` if the
winner breaks the promise: the `survey` tries every way once, `recipes` lists the configurations to try next, the
`evaluator` checks each against the promise, and the `log` records the results. A model from the cache is checked by its
`kept_promise`.
"""
