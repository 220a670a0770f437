"""Run a command as a hardened unit would: `python confined.py mdwe|calls=LINES|families=NAMES COMMAND...`.

What is denied is denied by the kernel, before the command's first instruction, to it and to all its children.
"""

import ctypes
import errno
import os
import socket
import subprocess
import sys

PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
MOST_FAMILIES = 64
LIBC = ctypes.CDLL(None, use_errno=True)


class UnableError(Exception):
    """This machine cannot confine; says why."""


def deny_executable_memory():
    """Refuse memory that is writable and executable, and what becomes executable later: MemoryDenyWriteExecute=yes."""
    if LIBC.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        raise UnableError(f"prctl(PR_SET_MDWE): {os.strerror(ctypes.get_errno())}; it came with Linux 6.3")


def members(name):
    """System calls of a set, as the installed systemd spells it out."""
    told = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    names = [line.strip() for line in told.stdout.splitlines()[1:]]
    found = set()
    for name in names:
        if name.startswith("@"):
            found |= members(name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found


def refused_by(lines):
    """Calls that the SystemCallFilter= lines of a unit refuse, and with which error, as systemd.exec(5) has it: a
    first line with `~` makes a list of what is refused, to which later lines add with `~` and from which they take."""
    assert lines[0].startswith("~")
    refused = {}
    for line in lines:
        for word in line.removeprefix("~").split():
            name, _, error = word.partition(":")
            for call in members(name) if name.startswith("@") else {name}:
                if line.startswith("~"):
                    refused[call] = int(error or errno.EPERM)
                else:
                    refused.pop(call, None)
    return refused


def library():
    """libseccomp, and a filter of its that allows everything so far."""
    try:
        seccomp = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise UnableError(f"{error}: needs libseccomp") from error
    seccomp.seccomp_init.restype = ctypes.c_void_p
    return seccomp, ctypes.c_void_p(seccomp.seccomp_init(ALLOW))


def deny_system_calls(lines):
    """Refuse every call that a unit's filter refuses."""
    seccomp, context = library()
    try:
        refused = refused_by(lines)
    except OSError as error:
        raise UnableError(f"{error}: needs systemd-analyze") from error
    for call, error in refused.items():
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number >= 0:  # others are of other architectures
            assert seccomp.seccomp_rule_add(context, REFUSE | error, number, 0) == 0
    assert seccomp.seccomp_load(context) == 0


class Comparison(ctypes.Structure):
    """libseccomp's: an argument's number, how it compares, with what."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def deny_families(names):
    """Refuse sockets of all families but these: RestrictAddressFamilies=."""
    seccomp, context = library()
    call = seccomp.seccomp_syscall_resolve_name(b"socket")
    equal = 4
    for family in set(range(MOST_FAMILIES)) - {int(getattr(socket, name)) for name in names}:
        same = Comparison(0, equal, family, 0)
        action = REFUSE | errno.EAFNOSUPPORT
        assert seccomp.seccomp_rule_add_array(context, action, call, 1, ctypes.byref(same)) == 0
    assert seccomp.seccomp_load(context) == 0


if __name__ == "__main__":
    asked, *command = sys.argv[1:]
    how, _, what = asked.partition("=")
    try:
        if how == "mdwe":
            deny_executable_memory()
        elif how == "calls":
            deny_system_calls(what.split(";"))
        else:
            deny_families(what.split())
    except UnableError as why:
        sys.exit(f"cannot confine: {why}")
    os.execvp(command[0], command)
