"""Layer 1: from files to batches.

`locate` finds files, `source` and `root` read them, `catalogue` checks them against a config, `plan` fixes the order,
`prefetch` and `shuffle` carry it out, `dataset` hands out batches, `scan` makes the statistics. Invariant: which events
come, and in which order, is a function of the files, the config and the seed alone.
"""
