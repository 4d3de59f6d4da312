"""Framework adapters: how any ML framework learns from the stream and hands its model over as a graph.

One file a framework, all of the same shape (`mlaas4hep.backends.protocol`), found by name through
`mlaas4hep.backends.registry`. Invariant: a backend sees tensors and gives a `Core`; it knows nothing of files, columns
or servers.
"""
