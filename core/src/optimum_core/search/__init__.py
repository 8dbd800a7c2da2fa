"""The search for the fastest correct candidate.

`spec` defines the specs that compete and their order; a `candidate` is a spec with its results. The `trial` builds it
(`builder`, with the model's `exports`), opens it, compares it with the eager model (`references`) and times it.
`candidate_search` tries specs within a `budget` and runs the final `race`; it also tries restricted axes
(`axis_restriction`), leaves out what would be wrong as others were (`shared_faults`) and measures other precisions
(`precision_hint`). Its arguments are the `context`; its `standing` says what is owed beyond the budget; `notes` tell
what limits a decision; a first run of what may crash happens in a child (`child_run`), and `tower_search` searches
towers as models of their own. `failures` is the error where nothing is right. `history` stores the decisions of
earlier searches. `cross_build` builds for other machines, and `retune` chooses again for a saved artifact, without
torch or the model: therefore this package imports nothing by itself. `quantized` continues from the winner when the
model is to be quantized.
"""
