"""Another machine, such as a board, reached over ssh: ONNX Runtime there, and nothing of ours installed.

`ssh:user@host` runs that machine's `python3`, `ssh:user@host:/home/pi/venv/bin/python` another one. Models travel as
ONNX bytes through ssh's standard input, times come back as JSON; they are taken over there, so the network is in none
of them. Keys, hosts and ports are ssh's own business (`~/.ssh/config`); GHOSTSEARCH_SSH is another ssh command.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Prepared
from ghostsearch.measure.devices.far_side import packed
from ghostsearch.measure.devices.onnx_device import Feed, OnnxDevice
from ghostsearch.measure.setting import Setting
from ghostsearch.measure.threads import SLACK_CORES

COMMAND_VARIABLE = "GHOSTSEARCH_SSH"
OPTIONS = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15",
    "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
)  # fmt: skip
"""No terminal, no questions: an unknown host or key is an error, which ssh words itself."""
NAME = re.compile(r"ssh:(?P<host>(?:[\w.+-]+@)?[A-Za-z0-9_][\w.%-]*)(?::(?P<python>[\w./~+-]+))?")
LARGEST_ANSWER = 2**31


class Link:
    """A conversation with the far side over one process's standard input and output.

    Raises GhostsearchError when the process does not start.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name, self.models = name, 0
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the link
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        except OSError as error:
            raise GhostsearchError(f"{name}: {command[0]!r} does not start ({error.strerror})") from None

    def ask(self, do: str, blobs: Sequence[bytes] = (), **head: Any) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and wait for its answer; raises GhostsearchError when the far side fails or is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = json.dumps({**head, "do": do, "sizes": [len(b) for b in blobs]}).encode()
        try:
            self.process.stdin.write(request + b"\n" + b"".join(blobs))
            self.process.stdin.flush()
            found = json.loads(self.process.stdout.readline(2**20))
            if "error" in found:
                raise GhostsearchError(f"{self.name} cannot run this model ({str(found['error'])[:300]})")
            if sum(found["sizes"]) > LARGEST_ANSWER:
                raise ValueError
            return found, [self.process.stdout.read(size) for size in found["sizes"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise GhostsearchError(f"{self.name} cannot be reached: {self._reason()}") from None

    def _reason(self) -> str:
        """The last line that ssh or the far side's Python wrote as an error."""
        self.process.kill()
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else f"it ended with code {code}; try the same ssh by hand"

    def close(self) -> None:
        """End the far side."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=10)
        self.errors.close()


class FarPrepared(Prepared):
    """A session on the far side."""

    def __init__(self, link: Link, model: int, threads: int) -> None:
        self.link, self.model, self.threads = link, model, threads

    def run(self) -> Any:
        return self.seconds(1)

    def seconds(self, calls: int) -> list[float]:
        """Seconds as the far side's own clock has them; raises GhostsearchError where it uses more cores than asked."""
        found, _ = self.link.ask("run", model=self.model, calls=calls)
        times = [float(t) for t in found["times"]]
        if sum(times) > 0.05 and found["cpu_s"] > (self.threads + SLACK_CORES) * sum(times):
            raise GhostsearchError(f"{self.link.name} keeps more than {self.threads} cores busy")
        return times

    def outputs(self) -> tuple[np.ndarray, ...]:
        _, files = self.link.ask("outputs", model=self.model)
        return tuple(np.load(io.BytesIO(file), allow_pickle=False) for file in files)

    def close(self) -> None:
        self.link.ask("drop", model=self.model)


class SshOnnxRuntime(OnnxDevice):
    """ONNX Runtime on the CPU of another machine."""

    packages = ("onnx", "torch")
    limits_threads = False  # not this process's cores; the far side tells its own
    links: dict[tuple[str, ...], Link] = {}  # noqa: RUF012 - one connection for all devices of a process

    def __init__(self, name: str, command: Sequence[str] | None = None) -> None:
        """`command` starts the far side in the place of ssh; raises GhostsearchError for a name of another form."""
        self.name = name
        self.command = tuple(command) if command else self._ssh(name)

    @staticmethod
    def _ssh(name: str) -> tuple[str, ...]:
        found = NAME.fullmatch(name)
        if found is None:
            raise GhostsearchError(f"{name!r} names no machine; write ssh:user@host or ssh:user@host:/path/to/python")
        script = Path(__file__).with_name("far_side.py").read_text(encoding="utf-8")
        # ssh hands its words to the shell over there, hence one quoted word.
        far = shlex.join([found["python"] or "python3", "-u", "-c", script])
        return (*shlex.split(os.environ.get(COMMAND_VARIABLE) or "ssh"), *OPTIONS, "--", found["host"], far)

    def check(self) -> None:
        """The far side must answer, with onnxruntime."""
        self.link.ask("hello")

    @property
    def link(self) -> Link:
        """The connection, made when it is first wanted and again when it broke."""
        link = self.links.get(self.command)
        if link is None or link.process.poll() is not None:
            link = self.links[self.command] = Link(self.name, self.command)
        return link

    def versions(self) -> dict[str, str]:
        """The far side's onnxruntime, and what exports the models here."""
        return {**super().versions(), "onnxruntime": str(self.link.ask("hello")[0]["onnxruntime"])}

    def place(self) -> str:
        """The far side's name and processor."""
        return str(self.link.ask("hello")[0]["place"])[:200]

    def remark(self) -> str:
        return "CPU wait time is not subtracted over there: keep the machine idle"

    def open(self, graph: bytes, feed: Feed, setting: Setting) -> Prepared:
        """The graph in a session over there."""
        link, files = self.link, map(packed, feed.values())
        link.models += 1
        link.ask("load", [graph, *files], model=link.models, names=list(feed), threads=setting.threads)
        return FarPrepared(link, link.models, setting.threads)
