"""The paths of each protocol: `openai`, `tei` (text-embeddings-inference), `inference` (Open Inference Protocol v2),
and `operations`, the server's own: health, figures, the page.
"""
