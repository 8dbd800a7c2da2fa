"""The two built-in backends: `torch`, the eager model, and `onnx`, which exports and evaluates.

`torch_plugin` and `onnx_plugin` hold the hooks, `torch_session` the sessions of the eager model, `onnx_forms` the
graphs of decoders as other packages write and read them, `onnx_pairs` and `onnx_release` their encoders with decoders,
by the changes of graphs in `onnx_surgery` and `onnx_divisions`, and `onnx_extended` graphs with operators outside the
standard.
"""
