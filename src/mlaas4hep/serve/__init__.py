"""LAYER 3: predictions over HTTP from bundles, by the same contract that trained them.

`protocol` and `events` turn bytes into tensors and columns, `repository` holds the models, `service` answers without
knowing a transport, `http` and `server` put it on the wire. Invariant: a served score has the bits of the offline one,
since both come from one preprocessor and one graph. Nothing here reads event files or knows a training framework.
"""
