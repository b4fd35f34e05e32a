"""fdatasync without a thread: Linux's asynchronous I/O, with completions on an eventfd that the loop watches.

A hop to a thread and back costs more than most loop turns: both threads fight for the interpreter's lock. The kernel
has workers of its own: `io_submit` with IOCB_CMD_FDSYNC (Linux 4.18, `fs/aio.c`) starts the sync there and returns,
and the eventfd becomes readable when it is over. Calls go through `ctypes.PyDLL`, which keeps the interpreter's lock:
none of them blocks.

What it leaves to others: what to sync and when (`respkv.offload`). Where the kernel refuses (an old one, a sandbox, the
limit `fs.aio-max-nr`), `AioContext()` raises OSError and a thread does the work.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from typing import Final

REQUESTS_MAX: Final = 64

_FDSYNC: Final = 3
_RESFD: Final = 1
# The numbers of io_setup, io_destroy, io_getevents and io_submit (arch/x86/entry/syscalls, asm-generic/unistd.h).
_CALLS: Final = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}


class _Request(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h, on a little-endian machine."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("reqprio", ctypes.c_int16),
        ("fildes", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved2", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`: `res` is 0 or a negative error number."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("obj", ctypes.c_uint64),
        ("res", ctypes.c_int64),
        ("res2", ctypes.c_int64),
    )


class AioContext:
    """A queue of syncs in the kernel. `fd` becomes readable when some are over: then call `finished`.

    Raises:
        OSError: the kernel or this machine does not offer it.
    """

    def __init__(self) -> None:
        numbers = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
        if numbers is None or sys.byteorder != "little" or ctypes.sizeof(ctypes.c_long) != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._setup, self._destroy, self._get_events, self._submit = map(ctypes.c_long, numbers)
        self._call = ctypes.PyDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        self._checked(self._setup, ctypes.c_long(REQUESTS_MAX), ctypes.byref(self._context))
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._request = _Request(opcode=_FDSYNC, flags=_RESFD, resfd=self.fd)
        self._pointers = (ctypes.POINTER(_Request) * 1)(ctypes.pointer(self._request))
        self._none, self._one, self._most = map(ctypes.c_long, (0, 1, REQUESTS_MAX))
        self._events = (_Event * REQUESTS_MAX)()

    def submit(self, descriptor: int) -> None:
        """Starts an fdatasync; at most `REQUESTS_MAX` may be under way.

        Raises:
            OSError: it was not started.
        """
        self._request.fildes = descriptor
        self._checked(self._submit, self._context, self._one, self._pointers)

    def finished(self) -> list[OSError | None]:
        """The outcomes of the syncs that are over, in no particular order; an empty list when there are none."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return []
        count = self._checked(
            self._get_events, self._context, self._none, self._most, self._events, None
        )
        return [
            OSError(-event.res, os.strerror(-event.res)) if event.res < 0 else None for event in self._events[:count]
        ]

    def close(self) -> None:
        """Waits for what is under way and gives everything back."""
        self._call(self._destroy, self._context)
        os.close(self.fd)

    def _checked(self, *arguments: object) -> int:
        result = int(self._call(*arguments))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
