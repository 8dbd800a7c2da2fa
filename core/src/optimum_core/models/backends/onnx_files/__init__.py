"""The built-in backend `onnx`: its hooks are in `plugin`.

`forms` is a decoder with its cache as other packages write and read it. `pairs` reads their encoders with decoders, and
`release` writes such. `extended` holds graphs with operators outside the standard. `surgery` changes graphs, and
`divisions` guards those of whole numbers.
"""
