"""Kernels on local sockets: no TCP ports, on which kernels started at once can collide."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


class LocalKernelManager(AsyncKernelManager):
    """A kernel of the interpreter that runs this, whatever kernelspecs a user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, language="python", display_name="Python 3")

    def kill_now(self) -> None:
        """Kill the kernel and what it started, from any thread."""
        pid = getattr(self.provisioner, "pid", None)
        if pid:
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    os.kill(pid, signal.SIGTERM)
                else:
                    os.killpg(pid, signal.SIGKILL)

    def end(self) -> float:
        """Make sure that nothing of the kernel is left.

        Returns
        -------
        float: CPU seconds of a forked kernel; 0 otherwise, where the system counts it as a child.
        """
        self.kill_now()
        process = getattr(self.provisioner, "process", None)
        return getattr(process, "cpu_s", 0.0)


def manager(sockets: Path, kernel: Any = None) -> LocalKernelManager:
    """A manager whose kernel listens on sockets in the folder `sockets`."""
    found = LocalKernelManager(
        connection_file=str(sockets / "k.json"), transport="ipc", ip=str(sockets / "k")
    )
    if sys.platform == "win32":  # no local sockets there
        found = LocalKernelManager(connection_file=str(sockets / "k.json"))
    return found
