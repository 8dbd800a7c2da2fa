"""Sentence encoders and cross-encoders of sentence-transformers, as one model each.

`source` opens a `directory`, `in_memory` an object; both build the `encoder`, a transformer with its `heads`, whose
`pooling` is also read without torch. `check` compares it with the package itself where that is installed. `wrapper` is
the accelerated object of the package's class.
"""
