"""Models that take pictures or sound beside text and write text.

`description` finds their parts by trial. `merging` runs the original with its language model in a backend, as the part
that `merge_session` opens. `towers` turn pictures and sound into features, and `tower_calls` call them from within the
original.
"""
