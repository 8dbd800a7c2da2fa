"""Users' data: an iterable of `rows`, encoded as `batches` of a model's inputs; `texts` as tokens, and pictures and
sounds (`media`) through a processor. `plain_reading` finds whether the package `tokenizers` alone reads texts alike.
"""
