"""The built-in backend `onnx`: its hooks are in `plugin`.

`forms` holds the graphs of decoders as other packages write and read them, `pairs` and `release` their encoders with
decoders, by the changes of graphs in `surgery` and `divisions`, and `extended` graphs with operators outside the
standard.
"""
