"""A seccomp filter for generated programs: no new process, program, socket or signal, and if asked nothing written.

Without fork every other limit holds for all that a program does, for root too, whose number of processes the kernel does
not limit. Linux on x86_64 and aarch64; numbers from the kernel's syscall tables, seccomp(2), capabilities(7).
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# call: (x86_64, aarch64), None where an architecture has no such call.
PROCESSES = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "unshare": (272, 97), "setns": (308, 268),
    "setsid": (112, 157), "setpgid": (109, 154), "prctl": (157, 167), "setpriority": (141, 140),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
}  # fmt: skip
KERNEL = {
    "socket": (41, 198), "socketpair": (53, 199), "msgget": (68, 186), "semget": (64, 190), "shmget": (29, 194),
    "mq_open": (240, 180), "mount": (165, 40), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "open_by_handle_at": (304, 265),
}  # fmt: skip
FILES = {
    "creat": (85, None), "mkdir": (83, None), "rmdir": (84, None), "rename": (82, None), "link": (86, None),
    "symlink": (88, None), "unlink": (87, None), "chmod": (90, None), "chown": (92, None), "lchown": (94, None),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "mknod": (133, None), "fchmod": (91, 52),
    "fchown": (93, 55), "truncate": (76, 45), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "mkdirat": (258, 34),
    "mknodat": (259, 33), "fchownat": (260, 54), "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37),
    "symlinkat": (266, 36), "fchmodat": (268, 53), "utimensat": (280, 88), "renameat2": (316, 276),
    "openat2": (437, 437), "fchmodat2": (452, 452),
}  # fmt: skip
CLONE, CLONE3, PRLIMIT, OPEN, OPENAT = (56, 220), (435, 435), (302, 261), (2, None), (257, 56)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

CLONE_THREAD = 0x10000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_IF_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
SET_NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER_MODE, CAPABILITY_VERSION = 38, 22, 2, 0x20080522
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each


def available() -> bool:
    """Whether there is a filter for this system."""
    return sys.platform == "linux" and platform.machine() in ARCHITECTURES


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def refuse(number: int, error: int = errno.EPERM) -> bytes:
    """Call `number` returns an error."""
    return instruction(JUMP_EQUAL, number, 0, 1) + instruction(RETURN, ERRNO | error)


def argument_rule(number: int, argument: int, test: int, value: int, hit: int, miss: int) -> bytes:
    """Call `number` returns `hit` if the low half of an argument passes the test against value, else `miss`."""
    body = instruction(LOAD, ARGUMENTS + 8 * argument) + instruction(test, value, 0, 1)
    body += instruction(RETURN, hit) + instruction(RETURN, miss)
    return instruction(JUMP_EQUAL, number, 0, len(body) // 8) + body


def build(machine: str, read_only: bool) -> bytes:
    """The BPF program for a machine; read_only refuses everything that changes files as well."""
    column, architecture = ARCHITECTURES[machine]
    denied = ERRNO | errno.EPERM
    program = instruction(LOAD, ARCHITECTURE) + instruction(JUMP_EQUAL, architecture, 1, 0) + instruction(RETURN, KILL)
    program += instruction(LOAD, NUMBER)
    if machine == "x86_64":  # the x32 interface has the same calls under other numbers
        program += instruction(JUMP_AT_LEAST, 0x40000000, 0, 1) + instruction(RETURN, denied)
    calls = PROCESSES | KERNEL | (FILES if read_only else {})
    program += b"".join(refuse(numbers[column]) for numbers in calls.values() if numbers[column] is not None)
    program += refuse(CLONE3[column], errno.ENOSYS)  # its flags lie in memory; the C library then uses clone
    program += argument_rule(CLONE[column], 0, JUMP_IF_BITS, CLONE_THREAD, ALLOW, denied)
    program += argument_rule(PRLIMIT[column], 0, JUMP_EQUAL, 0, ALLOW, denied)
    if read_only:
        for numbers, flags in ((OPEN, 1), (OPENAT, 2)):
            if numbers[column] is not None:
                program += argument_rule(numbers[column], flags, JUMP_IF_BITS, WRITING, denied, ALLOW)
    return program + instruction(RETURN, ALLOW)


def apply(read_only: bool) -> None:
    """Put this process under the filter, for good. Needs no_new_privs; raises OSError."""
    program = build(platform.machine(), read_only)
    memory = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(memory))
    control(SET_SECCOMP, FILTER_MODE, header)


def give_up_privileges() -> None:
    """No capabilities, and none to be had (no_new_privs), for good; raises OSError."""
    control(SET_NO_NEW_PRIVILEGES, 1, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def control(option: int, first, second) -> None:
    """prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, first, second, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")
