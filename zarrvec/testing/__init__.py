"""What a test of code on top of object storage may ask for.

``s3server`` starts a real S3 server, ``proxy`` puts latency, faults and request counts in front of any
S3 endpoint, and ``plugin`` offers both as pytest fixtures.
"""
