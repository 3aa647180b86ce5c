"""How vectors are found by nearness: exact search over any Zarr array, without an index."""
