"""How fast and how lean: one module per measurement, each a table. Run with `make bench`."""
