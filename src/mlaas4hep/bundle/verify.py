"""``mlaas4hep verify``: proves on the machine at hand that a bundle scores as it should.

Another processor takes other kernels, so law 11 is tested where the model is served. Invariant: needs nothing but the
bundle, since the rows that are tried follow from its contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlaas4hep.arguments import require, whole
from mlaas4hep.bundle.layout import PROBE_ROWS
from mlaas4hep.bundle.read import Bundle
from mlaas4hep.errors import UserError
from mlaas4hep.graph.invariance import BATCHES, THREADS, Variance, find_company, find_variance, probe_rows
from mlaas4hep.graph.parity import difference_of


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify_bundle` found.

    Parameters
    ----------
    name, version, path
        Which bundle.
    threads, batches
        What was tried.
    rows
        Different rows in the largest batch.
    joined
        Up to which number of rows every single one was tried as a batch, as a server joins them.
    variances
        Where law 11 does not hold; empty if it does.
    difference
        Largest change of a score against the machine that wrote the bundle; of a regression in units of the target's
        spread.
    bar
        The change that is allowed there: 1e-6 for scores in [0, 1], 1e-5 for regressions.
    """

    name: str
    version: int
    path: str
    threads: tuple[int, ...]
    batches: tuple[int, ...]
    rows: int
    joined: int
    variances: tuple[Variance, ...]
    difference: float
    bar: float

    @property
    def ok(self) -> bool:
        """Whether law 11 holds here and scores are those of the machine that wrote, within the bar."""
        return not self.variances and self.difference <= self.bar

    def __str__(self) -> str:
        head = f"{self.name} version {self.version}: files and hashes are as written"
        sizes = f"1 to {self.joined} and {', '.join(str(one) for one in self.batches if one > self.joined)}"
        tried = f"{self.rows} rows in batches of {sizes} on {', '.join(map(str, self.threads))} threads"
        law = [str(one) for one in self.variances] or [f"each score is bit-equal to that of the row alone ({tried})"]
        same = f"scores differ from those where it was written by at most {self.difference:.1e}, allowed {self.bar:.1e}"
        return "\n  ".join([head, *law, same])


def verify_bundle(bundle: Bundle, *, threads: Sequence[int] = THREADS) -> VerifyReport:
    """Prove law 11 and compare scores with those that the manifest keeps.

    Parameters
    ----------
    bundle
        Loaded, so that its files are checked already.
    threads
        Thread counts to try.
    """
    require(bundle, Bundle, "bundle", hint="load_bundle(path) loads one")
    threads = [whole(one, "each of threads", least=1) for one in threads]
    if not threads:
        raise UserError("threads must be at least one thread count, got none")
    most = bundle.max_batch
    rows = probe_rows(bundle.spec.scaling, most)
    first = {name: array[:PROBE_ROWS] for name, array in rows.items()}
    written = np.array(bundle.manifest.probe, np.float32)
    model = bundle.model()
    company, joined = find_company(model, rows, threads=threads)
    return VerifyReport(
        name=bundle.name,
        version=bundle.version,
        path=str(bundle.path),
        threads=tuple(threads),
        batches=tuple(size for size in BATCHES if size <= most),
        rows=most,
        joined=joined,
        variances=(*company, *find_variance(model, rows, threads=threads, most=most)),
        difference=float(difference_of(bundle.spec, bundle.predict(first), written).max()),
        bar=bundle.manifest.parity.bar,
    )
