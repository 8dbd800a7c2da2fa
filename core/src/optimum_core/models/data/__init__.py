"""Users' data: an iterable of `rows`, with `texts` as tokens, encoded as `batches` of a model's inputs."""
