"""A whole third-party backend; see `acme_backend.plugin`."""
