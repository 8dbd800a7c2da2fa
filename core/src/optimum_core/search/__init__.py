"""Which candidate wins.

`spec` says what competes and in which order; a `candidate` is a spec on its way through the `trial`, which builds it
(`builder`), opens it, compares it with eager (`references`) and times it. `search` tries specs within a `budget` and
holds the `race`; `restrict` and `precision` are what it tries besides. `history` keeps what earlier searches decided.
`cross_build` builds for other machines, and `retune` chooses anew for a saved artifact, without torch or the model: so
this package imports nothing by itself. `quantized` searches on from the winner where the model is to be quantized.
"""
