"""How much resident memory a piece of work takes at its peak (Linux)."""

import contextlib
import ctypes
import gc
from pathlib import Path
from types import TracebackType
from typing import Self

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets the peak resident set size to the present one


class PeakMemory:
    """Context that measures by how much the process's resident memory grew within it.

    Freed memory that the allocator still holds is given back first: it would hide what the block
    takes. Unlike ``ru_maxrss``, the peak is reset, so that earlier work does not hide it either.

    Attributes
    ----------
    peak_mb
        Highest growth within the block in MB (10^6 bytes); None where the system cannot tell.
    kept_mb
        What of it is still there at the block's end, likewise.
    """

    peak_mb: float | None = None
    kept_mb: float | None = None

    def __enter__(self) -> Self:
        """Reset the peak."""
        give_back_freed_memory()
        self._before = _status_mb("VmRSS")
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:
            self._before = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Read the peak and what is left."""
        if self._before is None:
            return
        peak, now = _status_mb("VmHWM"), _status_mb("VmRSS")
        assert peak is not None and now is not None
        self.peak_mb, self.kept_mb = peak - self._before, now - self._before


def give_back_freed_memory() -> None:
    """Drop what only cycles keep; return the C allocator's free pages, where it is glibc."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status_mb(field: str) -> float | None:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith(field))
    return kilobytes * 1024 / 1e6
