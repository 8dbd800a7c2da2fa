"""OpenVINO as a backend of Optimum Core."""
