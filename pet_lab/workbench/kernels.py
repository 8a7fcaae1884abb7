"""The kernels of runs: forked from a process that has imported everything once, where that is safe.

Starting an interpreter and importing IPython and pandas costs more CPU than most small runs. On
Linux the standard library's fork server pays that once per process that starts sweeps: each kernel
is a fork of it, a process of its own that has executed nothing yet. The server never loads
TensorFlow or JAX, whose threads do not survive a fork. Elsewhere jupyter_client starts a new
interpreter for each kernel, as it always does.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import types
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from jupyter_core.utils import run_sync

# What every kernel needs, and from the debugger on what it would otherwise import as it starts.
ALWAYS = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "pandas", "pyarrow.parquet", "threadpoolctl"),
    *(__name__, "ipykernel.debugger", "IPython.core.debugger", "pdb", "faulthandler"),
    *("IPython.core.completerlib", "IPython.core.logger", "IPython.core.oinspect"),
    *("IPython.extensions.storemagic", "pandas.io.formats.html", "tornado.platform.asyncio"),
)
# What a notebook may import: libraries whose import starts no thread that a fork would lose.
SHAREABLE: Mapping[str, tuple[str, ...]] = {
    "matplotlib": ("matplotlib.pyplot",),
    "seaborn": ("seaborn",),
    "scipy": ("scipy.stats", "scipy.optimize"),
    "sklearn": ("sklearn.base", "sklearn.linear_model", "sklearn.metrics"),
}
_ordering = threading.Lock()


class Kernels:
    """Makes the kernels of a sweep, each a process of its own with `threads` numerical threads.

    Of the top-level `packages` that notebooks import, the fork server imports the safe ones. A
    process has one fork server: its first sweep decides what is imported in advance.
    PET_LAB_NO_FORK=1 forces a new interpreter for each kernel. A daemonic process, such as a Dask
    worker with a nanny, may not have children of `multiprocessing` and gets those too.
    """

    def __init__(self, threads: int = 1, packages: Iterable[str] = ()) -> None:
        self.environment = thread_limits(threads)
        modules = [m for name in sorted(packages) for m in SHAREABLE.get(name, ())]
        self._preload = [*ALWAYS, *modules]
        self.forks = (
            sys.platform == "linux"
            and hasattr(os, "fork")
            and not multiprocessing.current_process().daemon
            and os.environ.get("PET_LAB_NO_FORK", "") in ("", "0")
        )
        if self.forks:
            self._start_server()

    def manager(self, sockets: Path) -> AsyncKernelManager:
        """A manager of one kernel that is not started yet; it will listen in the folder `sockets`.

        Local sockets, where the system has them: kernels that start at once collide on TCP ports,
        and any user of the machine can connect to those.
        """
        place = {"connection_file": str(sockets / "k.json")}
        if sys.platform != "win32":
            place |= {"transport": "ipc", "ip": str(sockets / "k")}
        manager = _Manager(**place)
        if self.forks:
            manager.provisioner = ForkProvisioner(
                kernel_id=str(uuid.uuid4()), kernel_spec=manager.kernel_spec, parent=manager
            )
            manager.provisioner.kernels = self
        return manager

    def fork(self, *order: Any) -> int:
        """Process id of a new kernel; `order` is what `_become_kernel` takes."""
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=_become_kernel, args=order)
        with self._ordering():  # a server that died is replaced here
            process.start()
        assert process.pid is not None
        return process.pid

    def _start_server(self) -> None:
        """Start the server now, so that it imports while the sweep prepares; deaf to Ctrl-C.

        A terminal sends Ctrl-C to every process of its group, and the sweep decides what it means.
        """
        from multiprocessing import forkserver

        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        try:
            with self._ordering():
                forkserver.ensure_running()
        finally:
            if main:
                signal.signal(signal.SIGINT, before)

    @contextlib.contextmanager
    def _ordering(self) -> Iterator[None]:
        """For the block that talks to the server, and starts one where there is none."""
        extra = {
            **self.environment,  # libraries read these when the server imports them
            "PYTHONHASHSEED": "0",
            # A preloaded pyplot must choose the backend that a kernel would choose.
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # ipykernel's debugger would print a warning
        }
        with _ordering:
            before = {name: os.environ.get(name) for name in extra}
            main = sys.modules["__main__"]
            os.environ.update(extra)
            # Each fork would run the program that ordered it once more, as `__mp_main__`.
            sys.modules["__main__"] = types.ModuleType("__main__")
            multiprocessing.get_context("forkserver").set_forkserver_preload(self._preload)
            try:
                yield
            finally:
                sys.modules["__main__"] = main
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value


class _Manager(AsyncKernelManager):
    """A kernel of the interpreter that runs this, whatever kernelspecs a user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, language="python", display_name="Python 3")


class ForkProvisioner(LocalProvisioner):
    """Launches a kernel by forking the server instead of starting an interpreter."""

    kernels: Kernels

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Fork a kernel that takes the arguments after `python -m ipykernel_launcher`."""
        self.cwd = kwargs["cwd"]
        self.pid = self.pgid = self.kernels.fork(
            cmd[3:], self.cwd, kwargs["env"], kwargs["stdout"].name
        )
        self.process = ForkedKernel(self.pid)
        return self.connection_info


class ForkedKernel(psutil.Process):
    """A forked kernel, with what LocalProvisioner asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """None while it runs, then 0; that the fork server lives is not asked for."""
        with contextlib.suppress(psutil.Error):
            if self.is_running() and self.status() != psutil.STATUS_ZOMBIE:
                return None
        return 0

    def wait(self, timeout: float | None = None) -> int | None:
        """As `poll`: LocalProvisioner calls it once the process has ended."""
        return self.poll()


def _become_kernel(argv: list[str], cwd: str, env: Mapping[str, str], log: str) -> None:
    """Be a kernel until it is asked to end, or until the process that ordered it is gone."""
    os.setsid()  # one signal reaches the kernel and what it started
    connection = Path(argv[argv.index("-f") + 1])
    threading.Thread(target=_end_with_parent, args=(connection.parent,), daemon=True).start()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    # The variable would make ipykernel watch a process that is not the parent of a fork.
    os.environ.update({k: v for k, v in env.items() if k != "JPY_PARENT_PID"})
    os.chdir(cwd)
    sys.argv = ["ipykernel_launcher", *argv]
    multiprocessing.set_start_method(None, force=True)  # as in any other kernel
    import numpy as np
    import threadpoolctl
    from ipykernel.kernelapp import IPKernelApp

    # Seeded before the fork, the global generator would give every kernel the same stream.
    np.random.seed()  # noqa: NPY002
    threadpoolctl.threadpool_limits(int(env["OMP_NUM_THREADS"]))  # the server may have others
    IPKernelApp.launch_instance(argv=argv)


def _end_with_parent(sockets: Path) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # the system closes a pipe when it ends, however it ends
    shutil.rmtree(sockets, ignore_errors=True)
    kill_tree(os.getpid())


def end(manager: Any) -> None:
    """End a kernel and all that it has started; it is asked first, so that its exit hooks run."""
    if manager.provisioner is None or not manager.provisioner.has_process:
        return
    pid, started = manager.provisioner.pid, []
    with contextlib.suppress(psutil.Error):
        started = psutil.Process(pid).children(recursive=True)
    run_sync(manager.shutdown_kernel)()
    for process in started:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if hasattr(os, "killpg"):  # a kernel that was killed has left its children to its group
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def kill_tree(pid: int) -> None:
    """Kill all descendants of a process and then itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def thread_limits(threads: int) -> dict[str, str]:
    """Environment that keeps numerical libraries to `threads` threads each."""
    n = str(max(1, threads))
    single = ["--xla_cpu_multi_thread_eigen=false"] if threads <= 1 else []
    # XLA ends the process at a flag it does not know, so it gets this one only.
    flags = [os.environ.get("XLA_FLAGS", ""), *single]
    libraries = ("OMP", "OPENBLAS", "MKL", "NUMEXPR")
    return {
        **{f"{library}_NUM_THREADS": n for library in libraries},
        "VECLIB_MAXIMUM_THREADS": n,
        "TF_NUM_INTRAOP_THREADS": n,
        "TF_NUM_INTEROP_THREADS": n,
        "XLA_FLAGS": " ".join(f for f in flags if f),
    }


def cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
