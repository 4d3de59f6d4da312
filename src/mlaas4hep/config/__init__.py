"""What a YAML file may say, as frozen typed values.

`read_config` turns a file into a `Config`: the samples (which files, which class, which cross-section), the features
(`mlaas4hep.spec.features`, the declared half of the contract), the model and how it is trained. Invariant: either the
whole file is understood, or one `ConfigError` lists every problem with its path and the nearest known word.
"""

from mlaas4hep.config.labels import Labels, Rule
from mlaas4hep.config.on_error import OnError
from mlaas4hep.config.read import parse_config, parse_document, read_config, read_document
from mlaas4hep.config.values import Cache, Config, Era, Model, Sample, Tracking, Training, bytes_of, parse_size

__all__ = [
    "Cache",
    "Config",
    "Era",
    "Labels",
    "Model",
    "OnError",
    "Rule",
    "Sample",
    "Tracking",
    "Training",
    "bytes_of",
    "parse_config",
    "parse_document",
    "parse_size",
    "read_config",
    "read_document",
]
