"""The signature of a model: its inputs, outputs and varying axes, found by trial on the eager model.

`signature` describes a model (`decoder_signature` one that generates), by these steps: `derivation` of a layout
(`groups` of texts to a picture, `one_row` that stands for all), `defaults` of what may be left out, `ignored_inputs`,
`skipped_labels`, and the `axes` with their ranges. Lengths to try come from the configuration (`switches`) and from
the model's code (`code_switches`: `size_records` of `followed_numbers`, as the `size_terms` that code calculates, of
which `size_branches` and, for two axes, `joint_sizes` and `nested_branches` make lengths; `longer_calls`), values from
`large_values` and `edge_values`, and limits of whole numbers that no table states from `value_limits`;
`type_following` finds inputs whose type the outputs have, `memory_order` those whose order in memory counts,
`output_axes` names their axes (`fewer_kept` finds lengths that follow values); `eager_trials` are the calls.
"""
