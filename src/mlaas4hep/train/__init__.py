"""The training layer: from a config and its events to a judged model in a bundle.

Streams batches through any backend, keeps the best weights, writes the bundle through the parity gate and judges it
once on events it never saw. Invariant: a run directory is complete, or not there.
"""
