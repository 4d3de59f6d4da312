"""One table: every model on every data set, beside the same in a plain loop in memory and default boosting.

``python -m benchmarks.table --json`` trains each model of the project fold by fold from a stream, and its peer from
plain arrays of the same rows; ``--help`` says more. Invariant: nothing of an event reaches the model that judges it, on
either side, and both sides have the same folds, stopping rule and dials.
"""
