"""Calls of the eager model, which is the reference, and what they give.

`calls` calls a model by named tensors, on throwaway `copies` where it must not change, and in its flat form for
exporters (with sums in 64 bits: `promotion`; with constants of 16 bits written out: `narrow_floats`; with complex
numbers in two parts: `complex_pairs`; with all experts: `expert_loops`; with lengths and places that follow the call:
`traced_lengths`, `traced_views`); `outputs` turns what it returns into named tensors and back. `randomness` asks
whether it draws random numbers, `weight_writes` whether it writes into its own weights, `sensitivity` which layers
suffer from 8 bits. `threads`, `time_limit` and, for numbers that a call may count up to, `patience` bound what a call
takes; `torch_modes` sets autocast aside.
"""
