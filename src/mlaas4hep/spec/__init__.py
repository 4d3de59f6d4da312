"""The contract: what the user declares, what one pass over the data adds, and how columns become tensors.

Training, serving and scoring share this package and nothing else, so that a served score equals an offline score by
construction. It knows numpy, but no file format, no framework and no web server.
"""
