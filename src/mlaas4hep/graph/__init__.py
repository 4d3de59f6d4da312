"""One ONNX graph from raw padded tensors to scores: ``pre`` of the contract, ``core`` of a framework, ``post``.

`core`, `trees` and `dense` are what backends use to export; `pre`, `merge` and `canonical` join and normalise;
`session` runs a graph and needs no more than onnxruntime; `parity` and `invariance` prove it before it is published.
"""
