"""Runs on another machine, sent there as text: needs Python 3.8, numpy and onnxruntime, and nothing of ghostsearch.

Reads requests from standard input and answers on standard output: a line of JSON with the sizes of the blobs behind
it. Models are ONNX bytes, arrays .npy files without pickles.
"""

import io
import json
import platform
import sys
import time

import numpy as np
import onnxruntime as ort


def receive():  # type: ignore[no-untyped-def]
    """The next request and its blobs; the end of the input is a request to end."""
    head = json.loads(sys.stdin.buffer.readline() or b'{"do": "end"}')
    return head, [sys.stdin.buffer.read(size) for size in head.get("sizes", [])]


def answer(blobs=(), **head):  # type: ignore[no-untyped-def]
    """Send an answer."""
    line = json.dumps(dict(head, sizes=[len(blob) for blob in blobs])).encode() + b"\n"
    sys.stdout.buffer.write(line + b"".join(blobs))
    sys.stdout.buffer.flush()


def processor():  # type: ignore[no-untyped-def]
    """The processor's name, where the system has one."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line.partition(":")[2].strip() for line in file if line.startswith(("model name", "Model"))]
    except OSError:
        lines = []
    return lines[0] if lines else platform.processor() or platform.machine()


def load(head, blobs):  # type: ignore[no-untyped-def]
    """A session of so many threads, and its inputs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = head["threads"], 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(blobs[0], options, providers=["CPUExecutionProvider"])
    feed = {name: np.load(io.BytesIO(blob), allow_pickle=False) for name, blob in zip(head["names"], blobs[1:])}  # noqa: B905
    known = {x.name for x in session.get_inputs()}
    return session, {name: value for name, value in feed.items() if name in known}


def run(session, feed, calls):  # type: ignore[no-untyped-def]
    """Seconds of each call, processor seconds of all, and the last call's outputs."""
    times, cpu = [], time.process_time()
    for _ in range(calls):
        start = time.perf_counter()
        outputs = session.run(None, feed)
        times.append(time.perf_counter() - start)
    return times, time.process_time() - cpu, outputs


def packed(array):  # type: ignore[no-untyped-def]
    """An array as a .npy file's bytes."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def main():  # type: ignore[no-untyped-def]
    """Answer requests until there are no more."""
    models = {}
    while True:
        head, blobs = receive()
        if head["do"] == "end":
            return
        try:
            if head["do"] == "hello":
                answer(onnxruntime=ort.__version__, place=platform.node() + ", " + processor())
            elif head["do"] == "load":
                models[head["model"]] = load(head, blobs)
                answer()
            elif head["do"] == "drop":
                models.pop(head["model"], None)
                answer()
            else:
                session, feed = models[head["model"]]
                times, cpu, outputs = run(session, feed, head.get("calls", 1))
                answer([packed(y) for y in outputs] if head["do"] == "outputs" else (), times=times, cpu_s=cpu)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises is told to the other side
            answer(error=" ".join("{}: {}".format(type(error).__name__, error).split())[:300])  # noqa: UP032


if __name__ == "__main__":
    main()
