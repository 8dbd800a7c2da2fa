"""Intel Neural Compressor and TorchInductor as a backend of Optimum Core."""
