"""Damaged ROOT files, made by a seed: good files, and what is done to them.

Nothing in the package imports this; tests and benchmarks do. Invariant: what is done to a file hangs on the seed and
the name of the damage alone.
"""
