"""Backend `tract` of Optimum Core; see `optimum_tract.plugin`."""
