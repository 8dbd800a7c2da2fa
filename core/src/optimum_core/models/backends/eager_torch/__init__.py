"""The built-in backend `torch`: its hooks in `plugin`, the sessions of the eager model in `session`."""
