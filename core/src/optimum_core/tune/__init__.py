"""Which candidate wins.

`candidates` are what competes and in which order, `stages` build one, `search` checks and races them, `history` is what
earlier searches decided. `retune` chooses anew for a saved artifact, and takes neither torch nor the model: so this
package imports nothing by itself.

Where the model is to be quantized, `walk` goes on from the winner, or from another `start` where that breaks the
promise: `scouting` tries every way once, `recipes` are what may follow, `judging` holds each to the promise, and the
`ledger` has the trials.
"""
