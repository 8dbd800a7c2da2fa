"""Calls of the eager model, which is the reference, and what they give.

`calls` calls a model by named tensors, on throwaway `copies` where it must not change, and in its flat form for
exporters; `outputs` turns what it returns into named tensors and back. `reading` asks whether it reads an input.
`randomness` asks whether it draws random numbers, `outside_reads` whether it reads a clock, `circumstances` whether its
thread counts, `rounding_noise` what it answers where its operators round otherwise, `weight_writes` whether it writes
into its own weights, `sensitivity` which layers suffer from 8 bits. `kept_answers` asks it once for equal inputs while
it is described. `threads`, `time_limit` and, for numbers that a call may count up to, `bounded_calls` bound what a call
takes; `torch_modes` sets autocast aside, and puts the process's settings back. `operator_watch` is what the modes share
that watch a call.
"""
