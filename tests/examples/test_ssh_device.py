"""The example device on another machine: a stand-in process with the real onnxruntime, and a real sshd where there is
one.
"""

import getpass
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices.selftest import output_difference, probe_model
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting

EXAMPLE = Path(__file__).parents[2] / "examples" / "ssh_device.py"


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("ssh_device", EXAMPLE)
    loaded = importlib.util.module_from_spec(spec)
    # A dataclass-free module: nothing looks it up in sys.modules.
    spec.loader.exec_module(loaded)
    yield loaded
    for link in loaded.SshOnnxRuntime.links.values():
        link.close()


@pytest.fixture(scope="module")
def device(module):
    # -I: isolated, so that the far side has no path to this project.
    return module.SshOnnxRuntime([sys.executable, "-I", "-u", "-c", module.FAR_SIDE])


def test_the_far_side_imports_nothing_of_ours(module):
    imports = [line for line in module.FAR_SIDE.splitlines() if line.startswith(("import", "from"))]
    assert imports == ["import io, json, platform, sys, time", "import numpy as np, onnxruntime as ort"]


def test_outputs_come_back_right(device):
    device.check()
    assert output_difference(device, *probe_model()) < 1e-4


def test_it_measures_like_any_device(device):
    model, example = probe_model()
    bigger = nn.Sequential(nn.Upsample(scale_factor=4), model).eval()
    found = measure_latency(
        {"bigger": bigger}, example, device=device, baseline=model, setting=Setting(time_limit=0.3)
    )["bigger"]
    assert found.device == "ssh:onnxruntime"
    assert found.ratio > 1
    assert {"onnxruntime", "torch", "onnx"} == set(device.versions())
    assert device.place()


def test_errors_of_the_far_side_are_one_line(device):
    with pytest.raises(GhostsearchError, match="cannot run this model") as caught:
        device.link.ask("load", [b"no graph"], model=99, names=[], threads=1)
    assert "\n" not in str(caught.value)
    device.check()


def test_a_broken_connection_is_told_and_the_next_use_reconnects(module):
    device = module.SshOnnxRuntime([sys.executable, "-I", "-u", "-c", module.FAR_SIDE, "another"])
    device.check()
    device.link.process.kill()
    broken = device.links[device.command]
    broken.process.wait()
    with pytest.raises(GhostsearchError, match="far side of ssh is gone"):
        broken.ask("hello")
    device.check()


def test_without_a_host_it_says_how(module, monkeypatch):
    monkeypatch.delenv(module.HOST_VARIABLE, raising=False)
    with pytest.raises(GhostsearchError, match="GHOSTSEARCH_SSH=user@host"):
        module.SshOnnxRuntime().check()
    monkeypatch.setenv(module.HOST_VARIABLE, "-oProxyCommand=evil")
    with pytest.raises(GhostsearchError, match="must be a host"):
        module.SshOnnxRuntime()


@pytest.fixture
def sshd(tmp_path):
    """A real ssh server on loopback with keys of its own: (port, key)."""
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
    if not (server and shutil.which("ssh") and shutil.which("ssh-keygen")):
        pytest.skip("no sshd here (apt install openssh-server)")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "allowed").write_text((tmp_path / "user.pub").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {tmp_path}/host", f"AuthorizedKeysFile {tmp_path}/allowed",
        "StrictModes no", "PasswordAuthentication no", f"PidFile {tmp_path}/pid", "UsePAM no",
    ]  # fmt: skip
    (tmp_path / "config").write_text("\n".join(settings) + "\n")
    process = subprocess.Popen([server, "-D", "-e", "-f", tmp_path / "config"], stderr=subprocess.PIPE)
    for _ in range(50):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here ({process.stderr.read().decode()[:100]})")
        time.sleep(0.1)
    yield port, tmp_path / "user"
    process.terminate()
    process.wait()


def test_over_a_real_ssh_server(module, sshd):
    import shlex

    port, key = sshd
    options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    far = shlex.join([sys.executable, "-I", "-u", "-c", module.FAR_SIDE])
    command = ["ssh", "-q", "-T", "-i", str(key), "-p", str(port), *options, f"{getpass.getuser()}@127.0.0.1", far]
    device = module.SshOnnxRuntime(command)
    device.check()
    assert output_difference(device, *probe_model()) < 1e-4
    assert torch.is_grad_enabled()
