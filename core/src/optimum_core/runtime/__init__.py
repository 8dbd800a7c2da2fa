"""The accelerated model, as returned by `accelerate` and `load`.

Calls, saved artifacts and the hub, by module:

    accelerated    the model, which behaves like the original
    inputs         checks and conversion of a call's inputs
    bounds         limits of values and lengths, checked at every call
    answers        conversion of outputs to the original's class
    mapping        `map`: many inputs of mixed length at once
    not_torch      explanations of calls that only a torch module supports
    pickling       pickling and copying, by reference to the artifact
    loading        opening of saved artifacts
    opening        a session for a manifest: backend, device and precision
    hub            artifacts on a hub
    eager_saving   saving of a model that stayed eager
    absent_device  a model built for another machine, which cannot be called here
"""
