"""The walls of the confined process, put up from inside before it looks at an upload; standard library only.

Limits of resources; a user, network and IPC namespace of its own; Landlock: only its own folder can be written, only
Python and the system's libraries can be read; seccomp: no sockets, no further processes, no signals to others. None of
it needs privileges. Invariant: a wall that stands cannot be taken down again by the process, and the walls that stand
are told.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_DUMPABLE, _SECCOMP_FILTER = 38, 22, 4, 2
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9

# What Python and numerical libraries read of the system.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/proc", "/sys/devices/system")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")

_libc = ctypes.CDLL(None, use_errno=True)


def confine(limits: Mapping[str, int], *, folder: Path, readable: Sequence[str]) -> tuple[str, ...]:
    """Put up all walls that this machine allows.

    Parameters
    ----------
    limits
        ``memory_bytes``, ``cpu_s``, ``file_bytes``, ``open_files``, ``processes``.
    folder
        The only place that can be written.
    readable
        Folders that can be read beside the system's.

    Returns
    -------
    Those that stand: ``limits``, ``namespaces``, ``landlock``, ``seccomp``.
    """
    _limit(limits)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    walls = [("namespaces", _own_namespaces()), ("landlock", _landlock(folder, [*_SYSTEM, *readable]))]
    # A server that ends leaves no conversion behind; a namespace of its own would have taken this back.
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    # The last one, since it forbids what the others are made with.
    walls.append(("seccomp", _seccomp()))
    return ("limits", *(name for name, stands in walls if stands))


def _limit(limits: Mapping[str, int]) -> None:
    wanted = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # The soft limit of CPU time ends the process by its own signal, which says why.
        resource.setrlimit(kind, (value, value + 5 if kind == resource.RLIMIT_CPU else value))


def _own_namespaces() -> bool:
    """Own user, network (not even loopback is up) and IPC namespace."""
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) != 0:
        return False
    with suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


# Landlock's rights on files, as the kernel numbers them: execute, write, read, list, remove folder, remove file, make
# device, folder, file, socket, pipe, block device, link, move (from version 2), truncate (3), ioctl (5).
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_OWN = ((1 << 16) - 1) & ~(1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12)  # no devices, sockets, pipes, links
_OF_FILES = _EXECUTE | _WRITE | _READ | 1 << 14 | 1 << 15
_TCP, _SCOPES = 3, 3
_CREATE, _ADD, _RESTRICT = 444, 445, 446


def _landlock(folder: Path, readable: Iterable[str]) -> bool:
    version = _libc.syscall(_CREATE, None, 0, 1)
    if version < 1:
        return False
    rights = _RIGHTS_BY_VERSION[min(version, 5)]
    words = [rights, *([_TCP] if version >= 4 else []), *([_SCOPES] if version >= 6 else [])]
    asked = struct.pack(f"{len(words)}Q", *words)
    rules = _libc.syscall(_CREATE, asked, len(asked), 0)
    if rules < 0:
        return False
    try:
        for path in readable:
            _allow(rules, path, rights & (_EXECUTE | _READ | _LIST))
        for path in _DEVICES:
            _allow(rules, path, rights & (_READ | _WRITE))
        _allow(rules, str(folder), rights & _OWN)
        return bool(_libc.syscall(_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine
    try:
        rights = rights if os.path.isdir(path) else rights & _OF_FILES
        if _libc.syscall(_ADD, rules, 1, struct.pack("=Qi", rights, place), 0) != 0:
            raise OSError(ctypes.get_errno(), f"Landlock takes no rule for {path}")
    finally:
        os.close(place)


# System calls of x86-64 that are refused: processes, programs, sockets, signals to others, limits, the kernel itself.
_FORBIDDEN = {
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "ptrace": 101, "process_vm_readv": 310,
    "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312,
    "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288,
    "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424,
    "setrlimit": 160, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
    "open_by_handle_at": 304, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "personality": 135,
    "add_key": 248, "request_key": 249, "keyctl": 250, "init_module": 175, "delete_module": 176, "finit_module": 313,
    "kexec_load": 246, "kexec_file_load": 320, "shmget": 29, "semget": 64, "msgget": 68,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
}  # fmt: skip
_CLONE, _CLONE3, _KILL, _TGKILL, _PRLIMIT = 56, 435, 62, 234, 302
_THREAD = 0x00010000
_X86_64, _X32 = 0xC000003E, 0x40000000
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000

# Instructions of the filter: load a word of the call, compare it, answer.
_LOAD, _EQUAL, _AT_LEAST, _BITS, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_MACHINE, _AT_FIRST, _AT_THIRD = 0, 4, 16, 32


def _seccomp() -> bool:
    if platform.machine() != "x86_64":
        return False
    program = b"".join(struct.pack("HBBI", *one) for one in _filter(os.getpid()))
    buffer = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, head, 0, 0) == 0)


def _filter(own: int) -> list[tuple[int, int, int, int]]:
    """One instruction a line: code, steps to skip where true, where false, number."""
    refuse = (_ANSWER, 0, 0, _REFUSE | errno.EPERM)
    lines = [(_LOAD, 0, 0, _AT_MACHINE), (_EQUAL, 1, 0, _X86_64), refuse]
    lines += [(_LOAD, 0, 0, _AT_NUMBER), (_AT_LEAST, 0, 1, _X32), refuse]
    for number in _FORBIDDEN.values():
        lines += [(_EQUAL, 0, 1, number), refuse]
    # The C library then asks by clone, whose flags can be seen.
    lines += [(_EQUAL, 0, 1, _CLONE3), (_ANSWER, 0, 0, _REFUSE | errno.ENOSYS)]
    lines += [(_EQUAL, 0, 3, _CLONE), (_LOAD, 0, 0, _AT_FIRST), (_BITS, 6, 0, _THREAD), refuse]
    lines += [(_EQUAL, 1, 0, _KILL), (_EQUAL, 0, 4, _TGKILL)]
    lines += [(_LOAD, 0, 0, _AT_FIRST), (_EQUAL, 1, 0, own), refuse, (_ANSWER, 0, 0, _ALLOW)]
    # prlimit may read limits, not set them.
    lines += [(_EQUAL, 0, 5, _PRLIMIT), (_LOAD, 0, 0, _AT_THIRD), (_EQUAL, 0, 2, 0)]
    lines += [(_LOAD, 0, 0, _AT_THIRD + 4), (_EQUAL, 1, 0, 0), refuse, (_ANSWER, 0, 0, _ALLOW)]
    return lines
