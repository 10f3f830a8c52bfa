"""A device of your own: another machine, reached over ssh, with nothing installed there but Python and onnxruntime.

Put this file into a package of yours and name it in that package's pyproject.toml:

    [project.entry-points."ghostsearch.devices"]
    "ssh:onnxruntime" = "your_package.ssh_device:SshOnnxRuntime"

Then, with a key that needs no password (ssh-agent):

    GHOSTSEARCH_SSH=pi@raspberrypi.local ghostsearch search --model torchvision:resnet18 --device ssh:onnxruntime …

Models travel as ONNX bytes through ssh's standard input, times come back as JSON; times are taken over there, so the
network is in none of them. No pickle, and no shell on this side.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.base import Device, Prepared, refusals
from ghostsearch.measure.devices.torch_cpu import as_array
from ghostsearch.measure.inputs import flat_inputs
from ghostsearch.measure.onnx_graph.capture import onnx_bytes
from ghostsearch.measure.setting import Setting

HOST_VARIABLE = "GHOSTSEARCH_SSH"
SLACK_CORES = 0.35

FAR_SIDE = """
import io, json, platform, sys, time
import numpy as np, onnxruntime as ort

def receive():
    head = json.loads(sys.stdin.buffer.readline() or b'{"do": "end"}')
    return head, [sys.stdin.buffer.read(n) for n in head.get("sizes", [])]

def answer(blobs=(), **head):
    sys.stdout.buffer.write(json.dumps(dict(head, sizes=[len(b) for b in blobs])).encode() + b"\\n" + b"".join(blobs))
    sys.stdout.buffer.flush()

models = {}
while True:
    head, blobs = receive()
    if head["do"] == "end":
        break
    try:
        if head["do"] == "hello":
            answer(onnxruntime=ort.__version__, place=platform.node() + ", " + (platform.processor() or
            platform.machine()))
        elif head["do"] == "load":
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = head["threads"], 1
            session = ort.InferenceSession(blobs[0], options, providers=["CPUExecutionProvider"])
            feed = {k: np.load(io.BytesIO(b), allow_pickle=False) for k, b in zip(head["names"], blobs[1:])}
            known = {x.name for x in session.get_inputs()}
            models[head["model"]] = session, {k: v for k, v in feed.items() if k in known}
            answer()
        elif head["do"] == "drop":
            models.pop(head["model"], None)
            answer()
        else:
            session, feed = models[head["model"]]
            times, cpu = [], time.process_time()
            for _ in range(head.get("calls", 1)):
                start = time.perf_counter()
                outputs = session.run(None, feed)
                times.append(time.perf_counter() - start)
            files = []
            for y in outputs if head["do"] == "outputs" else ():
                files.append(io.BytesIO())
                np.save(files[-1], y, allow_pickle=False)
            answer([f.getvalue() for f in files], times=times, cpu_s=time.process_time() - cpu)
    except Exception as error:
        answer(error=" ".join(f"{type(error).__name__}: {error}".split())[:300])
"""


class Link:
    """A conversation with the far side over one process's standard input and output."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.models = 0

    def ask(self, do: str, blobs: Sequence[bytes] = (), **head: Any) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and wait for its answer; raises GhostsearchError when the far side fails or is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = json.dumps({**head, "do": do, "sizes": [len(b) for b in blobs]}).encode()
        try:
            self.process.stdin.write(request + b"\n" + b"".join(blobs))
            self.process.stdin.flush()
            found = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            code = self.process.poll()
            raise GhostsearchError(
                f"the far side of ssh is gone (exit code {code}); try the same ssh by hand"
            ) from None
        if "error" in found:
            raise GhostsearchError(f"the far side cannot run this model ({found['error']})")
        return found, [self.process.stdout.read(n) for n in found["sizes"]]

    def close(self) -> None:
        """End the far side."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=10)


class FarPrepared(Prepared):
    """A session on the far side."""

    def __init__(self, link: Link, model: int, threads: int) -> None:
        self.link, self.model, self.threads = link, model, threads

    def run(self) -> Any:
        return self.seconds(1)

    def seconds(self, calls: int) -> list[float]:
        """Seconds as the far side's own clock has them."""
        found, _ = self.link.ask("run", model=self.model, calls=calls)
        times: list[float] = found["times"]
        if sum(times) > 0.05 and found["cpu_s"] > (self.threads + SLACK_CORES) * sum(times):
            raise GhostsearchError(f"the far side keeps more than {self.threads} cores busy")
        return times

    def outputs(self) -> tuple[np.ndarray, ...]:
        _, files = self.link.ask("outputs", model=self.model)
        return tuple(np.load(io.BytesIO(file), allow_pickle=False) for file in files)

    def close(self) -> None:
        self.link.ask("drop", model=self.model)


class SshOnnxRuntime(Device):
    """onnxruntime on the CPU of another machine; `GHOSTSEARCH_SSH` is what ssh takes for it, such as `user@host`."""

    name = "ssh:onnxruntime"
    packages = ("onnx", "torch")
    limits_threads = False  # not this process's cores; the far side tells its own
    links: dict[tuple[str, ...], Link] = {}  # noqa: RUF012 - one connection for all devices of a process

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self.command = tuple(command) if command else self._ssh()

    def _ssh(self) -> tuple[str, ...]:
        host = os.environ.get(HOST_VARIABLE, "")
        if not host:
            return ()
        if host.startswith("-"):
            raise GhostsearchError(f"{HOST_VARIABLE} must be a host such as user@host, got {host!r}")
        # ssh hands its arguments to the shell over there, hence one quoted word.
        return ("ssh", "-T", "-o", "BatchMode=yes", host, shlex.join(["python3", "-u", "-c", FAR_SIDE]))

    def check(self) -> None:
        """The far side must answer, with onnxruntime."""
        if not self.command:
            raise GhostsearchError(f"{self.name} wants to know where: {HOST_VARIABLE}=user@host ghostsearch …")
        self.link.ask("hello")

    @property
    def link(self) -> Link:
        """The connection, made when it is first wanted and again when it broke."""
        link = self.links.get(self.command)
        if link is None or link.process.poll() is not None:
            link = self.links[self.command] = Link(self.command)
        return link

    def versions(self) -> dict[str, str]:
        """The far side's onnxruntime, and what exports the models here."""
        return {**super().versions(), "onnxruntime": str(self.link.ask("hello")[0]["onnxruntime"])}

    def place(self) -> str:
        """The far side's name and processor."""
        return str(self.link.ask("hello")[0]["place"])

    def prepare(self, model: nn.Module, example: Any, setting: Setting) -> Prepared:
        """The model in a session over there."""
        with refusals(self.name):
            graph, names = onnx_bytes(model, example)
            files = []
            for tensor in flat_inputs(example):
                file = io.BytesIO()
                np.save(file, as_array(tensor), allow_pickle=False)
                files.append(file.getvalue())
            link = self.link
            link.models += 1
            link.ask("load", [graph, *files], model=link.models, names=names, threads=setting.threads)
            return FarPrepared(link, link.models, setting.threads)
