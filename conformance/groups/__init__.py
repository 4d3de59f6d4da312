"""The checks, a module or two for each group; importing this package declares them all, in the order of a report."""

from conformance.groups import (  # noqa: F401  # isort: skip
    metadata,
    infer,
    refusals,
    binary,
    numbers,
    sizes,
    malformed,
    transport,
    concurrency,
    extensions,
    repository,
    rpc_errors,
    rpc,
    rpc_extensions,
)
