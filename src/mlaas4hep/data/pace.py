"""How much is read at once, and by how many threads.

Invariant: none of it changes what is read, or in which order.
"""

from __future__ import annotations

import os

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.places import LOCAL, scheme_of
from mlaas4hep.data.plan import chunk_entries_for
from mlaas4hep.spec.preprocess import Preprocessor

FAR_THREADS = 4
"""Two clusters on the way and two at work keep both a line of 50 ms and two cores busy."""


def reading_unit(preprocessor: Preprocessor) -> int:
    """Entries read at once for a declaration: by the bytes of its raw columns, an estimate of lists included."""
    return chunk_entries_for(sum(40 if one.kind == "jagged" else 8 for one in preprocessor.types.values()))


def readers(catalogue: Catalogue, threads: int) -> int:
    """Threads that read a catalogue where so many are to work."""
    far = any(scheme_of(one.path) != LOCAL for one in catalogue.files)
    return max(threads, FAR_THREADS) if far and threads else threads


def default_threads() -> int:
    """Two, or one where only one core may be used: more only help where reading is slower than learning."""
    return min(2, len(os.sched_getaffinity(0)))
