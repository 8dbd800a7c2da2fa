"""The two built-in backends, laid out as a plugin is: `eager_torch`, the eager model, and `onnx_files`, which exports
and evaluates.
"""
