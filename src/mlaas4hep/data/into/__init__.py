"""The stream for other frameworks: torch, tensorflow, jax, xgboost and awkward, a module each.

A module imports its framework when it is imported or first used; none of them imports another. Invariant: every one
hands on the events of `mlaas4hep.data.dataset.EventDataset`, in its order and with its bits; what a framework cannot
hold (64 bits in jax) it says.
"""
