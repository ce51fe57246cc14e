"""Landlock (Linux 5.13): a process may read some folders and nothing else of the file system; landlock(7).

Used where bubblewrap is missing. It also keeps the process from looking into those outside its domain.
"""

import ctypes
import os
import struct
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
ASK_VERSION, RULE_PATH_BENEATH = 1, 1
EXECUTE, READ_FILE, READ_DIR, ALL = 1 << 0, 1 << 2, 1 << 3, (1 << 13) - 1  # ALL: the rights of the first version


def available() -> bool:
    """Whether this kernel has Landlock, switched on."""
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(CREATE_RULESET, None, 0, ASK_VERSION) > 0


def allow_reading(paths: list[str]) -> None:
    """Let this process read the files and folders `paths` and nothing else, for good. Needs no_new_privs; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(*call) -> int:
        result = libc.syscall(*call)
        if result < 0:
            raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
        return result

    ruleset = checked(CREATE_RULESET, struct.pack("Q", ALL), ctypes.c_size_t(8), 0)
    for path in paths:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = EXECUTE | READ_FILE | (READ_DIR if os.path.isdir(path) else 0)
        checked(ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
        os.close(descriptor)
    checked(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
