"""Conformance kit for the Open Inference Protocol v2: asks any server by URL what the protocol promises.

``python -m conformance --url http://host:8000 [--grpc host:8001]`` learns the model's tensors from its metadata, makes
fitting ones, and runs small named checks in groups. Invariant: nothing of mlaas4hep is imported here, and nothing is
taken from a server but what came over the wire.
"""
