"""Kernels on local sockets: no TCP ports, on which kernels started at once can collide."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner


class QuickClient(AsyncKernelClient):
    """A client that takes a new kernel's first answer at once.

    The usual one empties the output channel until it was silent for 0.2 s; here the kernel is new
    and our own, so the "idle" that ends our request is known to be its last message.
    """

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Return when shell and output channel answer; RuntimeError if the kernel dies first."""
        deadline = time.monotonic() + (timeout or float("inf"))
        wait = 0.1
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                asked = self.kernel_info()
                reply = await self.get_shell_msg(timeout=1)
                while True:
                    message = await self.get_iopub_msg(timeout=wait)
                    idle = message["content"].get("execution_state") == "idle"
                    if idle and message["parent_header"].get("msg_id") == asked:
                        self._handle_kernel_info_reply(reply)
                        return
            wait = min(1.0, 2 * wait)
            if not await self.is_alive():
                raise RuntimeError("Kernel died before replying to kernel_info")
        raise RuntimeError(f"Kernel did not answer within {timeout:g} s")


class LocalKernelManager(AsyncKernelManager):
    """A kernel of the interpreter that runs this, whatever kernelspecs a user has installed."""

    client_class = f"{__name__}.QuickClient"
    client_factory = QuickClient

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
        # A socket that connects before the other end exists tries again only every 100 ms.
        last = Path(f"{self.connection_info['ip']}-{self.connection_info['control_port']}")
        while not last.exists() and self.prepared.poll() is None:
            await asyncio.sleep(0.005)
        return self.connection_info
