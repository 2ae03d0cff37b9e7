"""PyTorch's threads, sent home while a layer computes.

After an operator of PyTorch, its threads wait for the next one by spinning, for some milliseconds, on the CPUs that a
layer wants now. GNU OpenMP has no function that ends the spinning, but one that ends the threads
(`omp_pause_resource_all`, OpenMP 5.0): those of the thread that calls it. The next operator starts them anew, which costs
less, unless the layer is small. Where threads do not spin, because `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` says
so, nothing is done; nor in a process that was forked, which has no such threads while OpenMP believes that it does.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

#: Multiply-adds of each thread of ours below which other threads may spin: about a millisecond.
WORTH_IT = 1 << 25

#: `omp_pause_soft`: what they know is kept.
_SOFT = 1

#: PF_FORKNOEXEC of Linux: the process is a fork, and has not become another program since.
_FORKED = 0x40


def _pauses() -> list[Callable[[int], int]]:
    """The function of every GNU OpenMP in this process; none where threads do not spin."""
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive" or "GOMP_SPINCOUNT" in os.environ:
        return []
    try:
        # Behind the name, which may hold anything in brackets: state, six numbers, flags.
        status = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        if int(status[6]) & _FORKED:
            return []
        maps = Path("/proc/self/maps").read_text().splitlines()
    except (OSError, ValueError, IndexError):
        return []
    fields = (line.split(maxsplit=5) for line in maps)
    files = {field[5] for field in fields if len(field) == 6}
    pauses = []
    for file in sorted(file for file in files if os.path.basename(file).startswith("libgomp")):
        try:
            # It is there already: this finds it.
            pause = ctypes.CDLL(file).omp_pause_resource_all
        except (OSError, AttributeError):
            continue
        pause.argtypes, pause.restype = [ctypes.c_int], ctypes.c_int
        pauses.append(pause)
    return pauses


_found: list[Callable[[int], int]] | None = None


def send_home() -> None:
    """Ends the threads that wait for operators of the calling thread."""
    global _found
    if _found is None:
        _found = _pauses()
    for pause in _found:
        pause(_SOFT)


def _forget() -> None:
    global _found
    _found = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
