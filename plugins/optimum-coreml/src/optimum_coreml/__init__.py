"""Core ML as a backend of Optimum Core."""
