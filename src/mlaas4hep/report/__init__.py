"""Pictures and the page of a run: what a physicist looks at before believing a model.

Reads what training wrote (``metrics.json``, ``history.csv``) and draws it; computes no figure.
"""
