"""TensorRT and TensorRT for RTX as a backend of Optimum Core."""
