"""Measurements side by side with peers and limits, in one run each; nothing in the tests asserts a time."""
