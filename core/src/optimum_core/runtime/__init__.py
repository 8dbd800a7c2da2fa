"""What `accelerate` returns and `load` opens.

`accelerated` is the model; `inputs` checks what it is called with, by the `bounds` of values and lengths, `answers`
makes what it gives back, `mapping` runs many inputs at once, `moving` explains what only a module of torch can do.
`loading` finds saved ones, `hub` fetches them, `opening` puts them on a session, `reopening` does so for pickled and
copied ones; `live` writes a model that stayed eager, and `foreign` stands for one that runs elsewhere.
"""
