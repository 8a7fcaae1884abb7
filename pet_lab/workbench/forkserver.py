"""A process that has imported everything once and forks a fresh pair of processes per run (Linux).

Starting a kernel and importing papermill, IPython and pandas costs more CPU than most small runs.
Here that is paid once per sweep:

    sweep -- fork server -- runner (papermill's client) -- kernel      one such pair per run

Each kernel is still a process of its own that executed nothing before. The server has one thread
and no sockets when it forks, and it never loads TensorFlow or JAX, which do not survive a fork.

Nobody outlives anybody: runner and kernel die with their parent by the kernel's own signal; the
server ends when its input closes; and as "subreaper" it inherits, and then kills, whatever a
notebook has started and left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pet_lab import files
from pet_lab.workbench import runner

# What runner and kernel need in any case.
ALWAYS = (
    "papermill.clientwrap",
    "papermill.engines",
    "papermill.iorw",
    "papermill.parameterize",
    "jupyter_client.asynchronous",
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    # What the first kernel would import while it starts.
    "faulthandler",
    "pdb",
    "tornado.platform.asyncio",
    "tornado.queues",
    "ipykernel.debugger",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.logger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "pet_lab.workbench.kernels",
)
# What a notebook may share: libraries whose import starts no thread that a fork would lose.
SHAREABLE: Mapping[str, tuple[str, ...]] = {
    "numpy": ("numpy",),
    "pandas": (
        "pandas",
        "pyarrow.parquet",
        "pyarrow.pandas_compat",
        "pandas.core.arrays.arrow.extension_types",
        "pandas.io.parquet",
        "pandas.io.formats.html",
    ),
    "matplotlib": ("matplotlib.pyplot",),
    "seaborn": ("seaborn",),
    "scipy": ("scipy.stats", "scipy.optimize"),
    "sklearn": ("sklearn.base", "sklearn.linear_model", "sklearn.metrics"),
}


def shareable(packages: Iterable[str]) -> list[str]:
    """Modules worth importing once for notebooks that import `packages`."""
    wanted = {*packages, "pandas"}  # results.write needs it in every run
    return [module for name, modules in SHAREABLE.items() if name in wanted for module in modules]


def main() -> None:
    """Read requests as JSON lines from stdin, answer on stdout, until stdin closes."""
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)  # what an import prints must not look like an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    become_subreaper()
    # A preloaded pyplot must choose the backend that a kernel would choose.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    runner.skip_costly_imports()
    # ipykernel would load debugpy in every kernel: half of its start, and nobody debugs a batch.
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    with os.fdopen(requests, "rb", buffering=0) as stream:
        first = json.loads(_line(stream))
        # While importing it has no children and cannot notice that its input closed.
        runner.die_with(first["parent"])
        for name in (*ALWAYS, *first["preload"]):
            with contextlib.suppress(ImportError):  # then the notebook says it better
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # keeps the shared pages shared
        # From here on it must outlive the thread that started it, and end its runs before itself.
        runner.outlive_parent()
        _Server(stream, answers).serve()


def become_subreaper() -> None:
    """Inherit orphaned descendants instead of leaving them to init."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1)


class _Server:
    def __init__(self, requests: Any, answers: int) -> None:
        self.requests, self.answers = requests, answers
        self.runners: dict[int, str] = {}
        self.buffer = b""

    def serve(self) -> None:
        awake, wake = socket.socketpair()
        for end in (awake, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.tell({"ready": True})
        with selectors.DefaultSelector() as selector:
            selector.register(self.requests, selectors.EVENT_READ)
            selector.register(awake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is awake:
                        with contextlib.suppress(BlockingIOError):
                            awake.recv(4096)
                        self.reap()
                    elif not self.receive([selector, awake, wake]):
                        self.end()
                        return

    def tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self.answers, json.dumps(message).encode() + b"\n")

    def receive(self, inherited: list[Any]) -> bool:
        """Handle complete lines; False when the sweep is gone or wants the end."""
        data = os.read(self.requests.fileno(), 65536)
        if not data:
            return False
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if request.get("stop"):
                return False
            if "kill" in request:
                for pid, key in self.runners.items():
                    if key == request["kill"]:
                        os.kill(pid, signal.SIGKILL)
                continue
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                _in_child(functools.partial(self.become_runner, request, parent, inherited))
            self.runners[pid] = request["id"]
        return True

    def become_runner(self, request: Mapping[str, Any], parent: int, inherited: list[Any]) -> None:
        runner.die_with(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for thing in inherited:
            thing.close()
        self.requests.close()
        os.close(self.answers)
        os.setsid()
        run(Path(request["folder"]))

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            known = self.runners.pop(pid, None)
            self.kill_orphans()
            if known is not None:
                self.tell({"id": known, "status": os.waitstatus_to_exitcode(status)})

    def kill_orphans(self) -> None:
        """Kill inherited processes, except those that belong to a run that is still going on."""
        import psutil

        for child in psutil.Process().children():
            with contextlib.suppress(OSError, psutil.Error):
                mine = child.pid in self.runners or os.getsid(child.pid) in self.runners
                loose = os.getsid(child.pid) == child.pid and self.runners
                if not mine and not loose:
                    os.kill(child.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill all that is left below this process."""
        import psutil

        self.runners.clear()
        while children := psutil.Process().children(recursive=True):
            for child in children:
                with contextlib.suppress(psutil.Error):
                    child.kill()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, 0)[0]:
                    continue


def run(folder: Path) -> None:
    """Become the runner of the job in `folder`, with a kernel forked before anything else."""
    log = os.open(folder / runner.KERNEL_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    listen, speak = os.pipe()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        os.close(speak)
        _in_child(lambda: become_kernel(parent, listen))
    os.close(listen)
    job = json.loads((folder / runner.JOB).read_text(encoding="utf-8"))
    outcome = runner.perform(job, folder, ForkedKernel(pid, speak))
    files.write_json(folder / runner.OUTCOME, outcome)


def become_kernel(parent: int, listen: int) -> None:
    """Wait for the connection file, then be the kernel; end if the runner goes away."""
    os.setpgid(0, 0)
    runner.die_with(parent)
    with os.fdopen(listen, "rb") as stream:
        line = stream.readline()
    if not line:
        return
    order = json.loads(line)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.argv = ["ipykernel_launcher", *order["argv"]]
    if "numpy" in sys.modules:
        # The global generator was seeded before the fork: runs must not share a stream by accident.
        sys.modules["numpy"].random.seed()
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(argv=order["argv"])


class ForkedKernel:
    """A kernel process forked in advance, in the shape of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, speak: int) -> None:
        self.pid, self._speak = pid, speak
        self.returncode: int | None = None

    def begin(self, order: Mapping[str, Any]) -> None:
        """Tell the process where to listen and what its environment is."""
        with contextlib.suppress(BrokenPipeError):  # it died: the client notices
            os.write(self._speak, json.dumps(order).encode() + b"\n")
        os.close(self._speak)

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._ask(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end; returns the exit code."""
        return self._ask(0)

    def _ask(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _in_child(act: Callable[[], None]) -> NoReturn:
    """Act, then leave by os._exit: a forked child must never return into the server's loop."""
    status = 1
    try:
        act()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _line(stream: Any) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = stream.read(1)
        if not piece:
            os._exit(0)
        line += piece
    return line


if __name__ == "__main__":
    main()
