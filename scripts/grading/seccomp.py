"""A system call filter for the sandbox: what a notebook never needs and a hostile one might.

Tracing other processes, memory that belongs to no process (so that it cannot be counted), new
namespaces (which would come with fresh rights), and the kernel's larger attack surfaces. A
refused call reports that it does not exist, for which programs have a fallback.
"""

import os
import platform
import struct

# In this order: ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd memfd_create
# memfd_secret shmget msgget unshare setns mount umount2 clone3 open_tree move_mount fsopen
# userfaultfd io_uring_setup perf_event_open bpf add_key request_key keyctl.
# Machine → its number in the filter, these calls, and clone.
# fmt: off
_MACHINES = {
    "x86_64": (0xC000003E, [101, 310, 311, 312, 438, 319, 447, 29, 68, 272, 308, 165, 166, 435,
                            428, 429, 430, 323, 425, 298, 321, 248, 249, 250], 56),
    "aarch64": (0xC00000B7, [117, 270, 271, 272, 438, 279, 447, 194, 186, 97, 268, 40, 39, 435,
                             428, 429, 430, 282, 425, 241, 280, 217, 218, 219], 220),
}
# fmt: on
_NEW_NAMESPACES = 0x7E020000
_LOAD, _EQUAL, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _NOT_THERE = 0x7FFF0000, 0x00050000 | 38
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000


def program(machine: str | None = None) -> bytes | None:
    """The filter in the kernel's format, or None for a machine whose numbers we do not know."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        return None
    architecture, calls, clone = _MACHINES[machine]
    # (code, value, where to go if true, if false); a string names a line
    lines = [
        (_LOAD, _ARCHITECTURE, 0, 0),
        (_EQUAL, architecture, 0, "refuse"),
        (_LOAD, _NUMBER, 0, 0),
        (_GREATER_EQUAL, _X32, "refuse", 0),
        *((_EQUAL, call, "refuse", 0) for call in calls),
        (_EQUAL, clone, 0, "allow"),
        (_LOAD, _FIRST_ARGUMENT, 0, 0),
        (_ANY_BIT, _NEW_NAMESPACES, "refuse", 0),
        (_RETURN, _ALLOW, 0, 0),
        (_RETURN, _NOT_THERE, 0, 0),
    ]
    ends = {"allow": len(lines) - 2, "refuse": len(lines) - 1}
    return b"".join(
        struct.pack("=HBBI", code, *(_jump(to, at, ends) for to in (yes, no)), value)
        for at, (code, value, yes, no) in enumerate(lines)
    )


def as_file(content: bytes) -> int:
    """An open file that holds these bytes, for bubblewrap to read; the caller closes it."""
    file = os.memfd_create("filter", 0)
    os.write(file, content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _jump(to: int | str, at: int, ends: dict[str, int]) -> int:
    return to if isinstance(to, int) else ends[to] - at - 1
