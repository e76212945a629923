"""Root that looks after another user's instance becomes that user, for good.

What root left in the state directory would be root's, and in the owner's way. But root can look
where the owner can't: systemd keeps the state of a service whose user it makes itself below
/var/lib/private, which only root may enter, and runs it in a user namespace of its own, into which
only root may look. So two of root's rights are kept, to read and to enter, and to look at processes
(capabilities(7)), also for what is started from here on.
"""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_SECUREBITS = 28
NO_SETUID_FIXUP = 1 << 2  # rights are ours to give up, and access(2) counts those that we keep
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE = 2, 19
KEPT = (CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE)
CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def become(uid: int, gid: int) -> None:
    """Go on as this user, without any of root's groups and rights but to read and to look.

    Rights that root itself lacks (in some containers) aren't kept.

    Raises:
        OSError: this process isn't root.
    """
    header, sets = _Header(CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    _checked(_libc.capget(ctypes.byref(header), sets))
    kept = [right for right in KEPT if sets[0].permitted & 1 << right]
    bits = sum(1 << right for right in kept)
    _checked(_libc.prctl(PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    sets[0], sets[1] = _Sets(bits, bits, bits), _Sets(0, 0, 0)
    _checked(_libc.capset(ctypes.byref(header), sets))
    for right in kept:
        _checked(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, right, 0, 0))


def _checked(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
