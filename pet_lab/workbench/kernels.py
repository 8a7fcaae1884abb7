"""Kernels on local sockets: no TCP ports, on which kernels started at once can collide."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner


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


def manager(sockets: Path, kernel: Any = None) -> LocalKernelManager:
    """A manager whose kernel listens on sockets in the folder `sockets`."""
    found = LocalKernelManager(
        connection_file=str(sockets / "k.json"), transport="ipc", ip=str(sockets / "k")
    )
    if sys.platform == "win32":  # no local sockets there
        found = LocalKernelManager(connection_file=str(sockets / "k.json"))
    if kernel is not None:
        found.provisioner = ForkedProvisioner(
            kernel_id=str(uuid.uuid4()), kernel_spec=found.kernel_spec, parent=found
        )
        found.provisioner.prepared = kernel
    return found


class ForkedProvisioner(LocalProvisioner):
    """Hands the connection file to a kernel process that the fork server has prepared."""

    prepared: Any = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        self.process = self.prepared
        self.pid = self.pgid = self.prepared.pid
        self.cwd = kwargs.get("cwd", os.getcwd())
        launcher = 3  # python -m ipykernel_launcher
        self.prepared.begin({"argv": cmd[launcher:], "cwd": self.cwd, "env": kwargs["env"]})
        return self.connection_info
