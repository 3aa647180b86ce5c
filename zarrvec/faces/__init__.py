"""How zarr and fsspec see a store: as a zarr store, a filesystem, and attributes of arrays."""
