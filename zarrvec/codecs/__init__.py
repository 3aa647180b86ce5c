"""Codecs that zarrvec adds to zarr, and which codecs there are to choose from."""
