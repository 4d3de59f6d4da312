"""How much an upload may take: of bytes, of files in it, of time and memory while it is converted.

An operator of a server sets them; the defaults let models of tens of millions of weights through, TensorFlow included.
"""

from __future__ import annotations

import msgspec

MIB, GIB = 1 << 20, 1 << 30


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds of one conversion.

    Parameters
    ----------
    upload_bytes
        Of the uploaded file.
    members, member_name
        Files and folders in an archive; length of a path in it.
    inflated_bytes, ratio
        Of all members together, unpacked; and how many times the archive's own bytes that may be, beyond one MiB.
    model_bytes
        Of the graph that is served, weights included.
    memory_bytes, cpu_s, wall_s
        Of the confined process: address space, CPU seconds, seconds.
    file_bytes, open_files, processes
        Of the confined process: largest file it may write, files open at once, threads.
    run_bytes
        Memory that loading and running the model on samples may add.
    weak_sandbox
        Convert also where the machine can keep the process neither from the network nor from other files.
    """

    upload_bytes: int = 512 * MIB
    members: int = 10_000
    member_name: int = 512
    inflated_bytes: int = 2 * GIB
    ratio: float = 200.0
    model_bytes: int = 512 * MIB
    memory_bytes: int = 6 * GIB
    cpu_s: int = 120
    wall_s: float = 180.0
    file_bytes: int = 1 * GIB
    open_files: int = 256
    processes: int = 512
    run_bytes: int = 2 * GIB
    weak_sandbox: bool = False
