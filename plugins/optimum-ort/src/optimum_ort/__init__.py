"""ONNX Runtime as a backend of Optimum Core."""
