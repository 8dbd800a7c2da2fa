"""Eager's own texts, which generators are compared with.

`whole_texts` are its answers without a cache, and the eager model as one that generates; `eager_dialogues` are texts
about drawn pictures and sounds.
"""
