"""The accelerated model, as returned by `accelerate` and `load`.

`accelerated` is the model class; `inputs` checks its inputs, with the `bounds` of values and lengths, `answers` builds
its outputs, `mapping` runs many inputs at once, `not_torch` explains the methods that only a torch module has.
`loading` finds saved artifacts, `hub` downloads them, `opening` opens their session, `pickling` does so for pickled and
copied models; `eager_saving` saves a model that stayed eager, and `absent_device` is the session of a device not here.
"""
