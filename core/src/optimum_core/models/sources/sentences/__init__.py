"""Sentence encoders and cross-encoders of sentence-transformers, as one model each.

`source` opens a `directory`, `in_memory` an object; both build the `encoder`, a transformer with its `heads`, by their
`module_settings`. `behind` reads the same modules without torch, with weights as they are `stored` and `activations` in
numpy. `check` compares it with the package itself where that is installed. `wrapper` is
the accelerated object of the package's class.
"""
