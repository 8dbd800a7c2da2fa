"""The only rooms that know torch and transformers.

From a model as its user gave it to something that can be exported, verified and measured:

    source     what was given: an instance, a module, a directory, a hub id; weights only when needed
    tasks      which task, and which class, from `config.architectures`
    layouts    which inputs the forward takes, and which axis of each means what
    samples    arrays for those inputs, at any lengths, padded as a case asks
    outputs    from a model's output to named arrays, and back to its class
    blueprint  all of that, tried on the eager model: specs whose varying axes it accepts
    engines    two ways to write ONNX
    eager, to_onnx   the two built-in backends, registered through the same hooks as everybody's
"""
