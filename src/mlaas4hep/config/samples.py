"""What samples and eras can still say wrong: files, cross-sections, luminosities.

Each check yields one line a problem, beginning with its path. Invariant: physics weights are whole or absent: a config
in which only some samples are normalised, or some to 1 fb^-1 by default, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from mlaas4hep.config.addresses import is_address, secrets_in, shown
from mlaas4hep.config.classes import check_classes, check_labels_of
from mlaas4hep.config.document import Document
from mlaas4hep.config.values import Sample
from mlaas4hep.errors import nearest


def check_samples(document: Document, eras: Collection[str], *, whole: bool) -> Iterator[str]:
    """Problems of all samples.

    Parameters
    ----------
    document
        What could be read.
    eras
        Names as written, those with problems of their own included.
    whole
        Whether every sample could be read: only then is it known what they say together.
    """
    yield from _check_addresses("redirector", document.redirector, all_remote=True)
    for name, sample in document.samples.items():
        yield from _check_sample(f"samples.{name}", sample, eras)
    for name, era in document.eras.items():
        if not _is_above_0(era.lumi_fb):
            yield f"eras.{name}.lumi_fb: {era.lumi_fb} is not a luminosity in fb^-1; wants a number above 0"
    if whole:
        simulated = {name: sample for name, sample in document.samples.items() if sample.kind == "mc"}
        yield from _check_normalisation(simulated)
        yield from check_classes(document)


def _check_sample(path: str, sample: Sample, eras: Collection[str]) -> Iterator[str]:
    if not sample.files:
        yield f"{path}.files: lists no file"
    yield from _check_addresses(f"{path}.redirector", sample.redirector, all_remote=True)
    for place, one in enumerate(sample.files):
        yield from _check_addresses(f"{path}.files[{place}]", (one,) if isinstance(one, str) else one)
        if not one:
            yield f"{path}.files[{place}]: lists no address"
    if sample.era is not None and sample.era not in eras:
        yield f"{path}.era: '{sample.era}' is not under eras{nearest(sample.era, eras)}"
    if sample.xsec_pb is not None and not _is_above_0(sample.xsec_pb):
        yield f"{path}.xsec_pb: {sample.xsec_pb} is not a cross-section in pb; wants a number above 0"
    yield from check_labels_of(path, sample)
    yield from _check_weight(path, sample) if sample.kind == "mc" else _check_data(path, sample)


def _check_data(path: str, sample: Sample) -> Iterator[str]:
    for key in ("xsec_pb", "sum_of_weights"):
        if getattr(sample, key) is not None:
            yield f"{path}.{key}: a sample of kind data counts each event once; leave it out"


def _check_addresses(path: str, addresses: Sequence[str], *, all_remote: bool = False) -> Iterator[str]:
    """Problems of addresses: credentials, which would go into every copy of the config; paths where none may stand."""
    for one in addresses:
        for name, _ in secrets_in(one):
            yield (
                f"{path}: {shown(one)} is written with a credential ({name}), and configs are copied into runs; write "
                "the address into a text file and name that, or give the credential by the environment"
            )
        if all_remote and not is_address(one):
            yield f"{path}: '{one}' is no address; write it as root://host"


def _check_weight(path: str, sample: Sample) -> Iterator[str]:
    given = sample.sum_of_weights
    if isinstance(given, str) and "/" not in given:
        yield f"{path}.sum_of_weights: '{given}' is neither a number nor Tree/branch"
    if isinstance(given, float) and not _is_above_0(given):
        yield f"{path}.sum_of_weights: {given} is no sum to normalise by; wants a number above 0"
    if sample.xsec_pb is not None and given is None:
        yield f"{path}.xsec_pb: needs sum_of_weights as well (a number, or a branch such as Runs/genEventSumw)"
    for key, value in (("sum_of_weights", given), ("era", sample.era)):
        if sample.xsec_pb is None and value is not None:
            yield f"{path}.{key}: weighs nothing without xsec_pb; give the cross-section as well, or neither"


def _check_normalisation(samples: Mapping[str, Sample]) -> Iterator[str]:
    with_xsec = [name for name, sample in samples.items() if sample.xsec_pb is not None]
    without = [name for name in samples if name not in with_xsec]
    if with_xsec and without:
        yield (
            f"samples: {_listed(with_xsec)} has xsec_pb, but {_listed(without)} has none: expected events would be "
            "compared with generated ones; give it to all or to none"
        )
    with_era = [name for name in with_xsec if samples[name].era is not None]
    without = [name for name in with_xsec if name not in with_era]
    if with_era and without:
        yield (
            f"samples: {_listed(with_era)} has an era, but {_listed(without)} has none and would count for 1 fb^-1; "
            "give all samples with xsec_pb an era, or none"
        )


def _is_above_0(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
