"""ONNX Runtime as a backend of Optimum Core."""

import os

# Builds for Linux, macOS and Windows report their use to Microsoft unless this is set before their first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
