"""A network of this process alone, with names of its own: nothing it does leaves it, and any address can be its."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

_NEW_USER, _NEW_NET, _NEW_MOUNTS = 0x10000000, 0x40000000, 0x00020000  # CLONE_NEW… of unshare(2)
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000  # MS_… of mount(2)
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # SIOC…IFFLAGS and IFF_UP of netdevice(7)
_NEW_ADDRESS, _REQUEST_ACK_CREATE = 20, 0x1 | 0x4 | 0x400  # RTM_NEWADDR and NLM_F_… of rtnetlink(7)
_ADDRESS, _LOCAL = 1, 2  # IFA_…


def go_apart(addresses: Sequence[str], files: Mapping[str, str], directory: Path) -> None:
    """Leave the machine's network for one with a loopback alone, which has these addresses (IPv4) too.

    ``files`` (path: text) stand in place of the machine's, for this process; they are kept in ``directory``. Before
    the first thread is started, and before anything resolved a name.

    Raises:
        OSError: the kernel, or what guards it, lets nobody do so.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.unshare(_NEW_USER | _NEW_NET | _NEW_MOUNTS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _checked(libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None))
    for number, (path, text) in enumerate(files.items()):
        own = directory / str(number)
        own.write_text(text)
        _checked(libc.mount(os.fsencode(own), os.fsencode(Path(path).resolve()), None, _BIND, None))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16s24x", b"lo")), 16)
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH22x", b"lo", flags | _UP))
    for address in addresses:
        _add(IPv4Address(address))


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _add(address: IPv4Address) -> None:
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, socket.if_nametoindex("lo"))
    body += b"".join(struct.pack("=HH4s", 8, kind, address.packed) for kind in (_LOCAL, _ADDRESS))
    header = struct.pack("=IHHII", 16 + len(body), _NEW_ADDRESS, _REQUEST_ACK_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(header + body)
        (error,) = struct.unpack_from("=i", kernel.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error))
