"""Root that looks after another user's instance becomes that user, for good.

What root left in the state directory would be root's, and in the owner's way. But root can look
where the owner can't: systemd keeps the state of a service whose user it makes itself below
/var/lib/private, which only root may enter. So of root's rights one is kept, to read and to enter
(CAP_DAC_READ_SEARCH, capabilities(7)), also for what is started from here on.
"""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def become(uid: int, gid: int) -> None:
    """Go on as this user, without any of root's groups and rights but to read and to enter.

    Where root itself lacks that right (in some containers), it isn't kept.

    Raises:
        OSError: this process isn't root.
    """
    _libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    right = 1 << CAP_DAC_READ_SEARCH
    header, data = _Header(CAPABILITY_VERSION_3, 0), (_Data * 2)()
    data[0] = _Data(right, right, right)
    if _libc.capset(ctypes.byref(header), data) == 0:
        _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0)
