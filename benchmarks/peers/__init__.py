"""Other projects' readers on the same file, each in an environment of its own.

`environments` makes them; the scripts beside it are run by the peer's interpreter, import nothing from here, and print
one JSON line. Invariant: a peer that cannot be had is null with a reason, never left out.
"""
