"""What the benchmarks of learning share: real files by environment, and a trained model judged on its test part."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mlaas4hep.config import Config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.progress import Progress
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.train.loop import Judged, judge
from mlaas4hep.train.run import RunResult, train


def real_files(*parts: str) -> Path:
    """A folder below ``MLAAS4HEP_TEST_DATA``; ends the program where that is not set."""
    folder = os.environ.get("MLAAS4HEP_TEST_DATA")
    if not folder:
        raise SystemExit("set MLAAS4HEP_TEST_DATA to the folder of real files (tests/real_files.txt lists them)")
    return Path(folder, *parts)


def trained(config: Config, *, progress: Progress | None = None) -> tuple[RunResult, Judged]:
    """One run, and its test part by the graph of its bundle: scores, labels, physics weights.

    The folder is gone afterwards; what the result holds in memory stays.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, output=Path(folder) / "run", progress=progress)
        catalogue = Catalogue.open(config)
        preprocessor = Preprocessor(config.features, catalogue.types)
        with EventDataset(catalogue, preprocessor, part="test", batch_size=4096) as dataset:
            return result, judge(result.bundle.predict, dataset)
