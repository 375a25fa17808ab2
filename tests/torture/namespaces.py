"""Machines that are network namespaces: each with a cable of its own to one switch, that can be pulled.

The switch is a bridge in the namespace of this process, which has an address on it as well. No other network is
reached from there, and nothing is forwarded. Needs root on Linux; `missing` says what is not there.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PREFIX = "10.77"  # a private /24 of it is taken that nothing on this machine uses
CABLE = "eth0"  # as a machine sees it

_numbers = itertools.count()  # of this process's networks


@dataclass
class Machine:
    """One namespace; its name is also that of its cable's end at the switch."""

    name: str
    address: str

    @property
    def enter(self) -> list[str]:
        """What to put before a command so that it runs there, in this process's place and with its id.

        The network alone is another: `ip netns exec` would also hide /sys/fs/cgroup.
        """
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def cut_off(self) -> None:
        """Pull the cable: what is on its way is lost, and neither side is told."""
        ip("link", "set", self.name, "down")

    def back(self) -> None:
        """Plug it in again."""
        ip("link", "set", self.name, "up")


@dataclass
class Switch:
    """What the machines are connected to, and this process's address there."""

    address: str
    machines: list[Machine]


@contextmanager
def network(machines: int) -> Iterator[Switch]:
    """Some machines and their switch; all of it is gone at the end. Raises OSError with what `ip` says if it cannot."""
    bridge, part = f"sky{os.getpid()}-{next(_numbers)}", _free()
    switch = Switch(f"{part}.1", [Machine(f"{bridge}-{k}", f"{part}.{k}") for k in range(2, machines + 2)])
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{switch.address}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for machine in switch.machines:
            ip("netns", "add", machine.name)
            ip("link", "add", machine.name, "type", "veth", "peer", "name", CABLE, "netns", machine.name)
            ip("link", "set", machine.name, "master", bridge, "up")
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", CABLE)
            ip("-n", machine.name, "link", "set", CABLE, "up")
            ip("-n", machine.name, "link", "set", "lo", "up")
        yield switch
    finally:
        for machine in switch.machines:  # the cables first: a namespace lives as long as a process in it
            _gone("link", "del", machine.name)
            _gone("netns", "del", machine.name)
        _gone("link", "del", bridge)


def missing() -> str:
    """Why no machines can be made here; "" if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if absent := [name for name in ("ip", "nsenter") if not shutil.which(name)]:
        return f"there is no program {' and no '.join(absent)}"
    try:
        with network(1):
            return ""
    except OSError as error:
        return str(error)


def ip(*arguments: str) -> str:
    """Run `ip`; gives what it prints. Raises OSError with its message."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _gone(*arguments: str) -> None:
    """Remove something, if it was made."""
    subprocess.run(["ip", *arguments], stderr=subprocess.DEVNULL, timeout=30)


def _free() -> str:
    """The beginning of a /24 that no address or route here is in; another one for each process, as far as they go."""
    taken = ip("-4", "route", "show", "table", "all")
    return next(part for k in range(250) if f"{(part := _part(os.getpid() + k))}." not in taken)


def _part(number: int) -> str:
    return f"{PREFIX}.{number % 250 + 1}"
