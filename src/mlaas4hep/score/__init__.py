"""Scores of models back into files: beside every event of every file, whether it was selected or not.

Reading goes through `mlaas4hep.data`, columns become tensors by the contract of each bundle, scores come from its graph
(or from a server that has it), and are written as friend trees, copies or Parquet. Invariant: an output has one row for
each entry of its input, in order, or it does not exist.
"""
