"""What `accelerate` returns and `load` opens.

`accelerated` is the model; `inputs` checks what it is called with, `answers` makes what it gives back, `mapping` runs
many inputs at once; `loading` opens saved ones, `hub` fetches them, `live` writes a model that stayed eager.
"""
