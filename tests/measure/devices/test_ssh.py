"""Another machine over ssh: a stand-in process with the real onnxruntime, and a real sshd where there is one."""

import contextlib
import getpass
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import nn

from ghostsearch.errors import GhostsearchError
from ghostsearch.measure.devices import far_side
from ghostsearch.measure.devices.selftest import output_difference, probe_model, self_test
from ghostsearch.measure.devices.ssh import COMMAND_VARIABLE, SshOnnxRuntime
from ghostsearch.measure.devices.table import get_device
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting

SCRIPT = Path(far_side.__file__).read_text()
# -I: isolated, so that the far side has no path to this project.
LOCAL = [sys.executable, "-I", "-u", "-c", SCRIPT]


@pytest.fixture(scope="module", autouse=True)
def _closed():
    yield
    for link in SshOnnxRuntime.links.values():
        if link.process.poll() is None:
            link.close()
    SshOnnxRuntime.links.clear()


@pytest.fixture(scope="module")
def device():
    return SshOnnxRuntime("ssh:somewhere", LOCAL)


def test_the_far_side_imports_nothing_of_ours():
    found = {line.split()[1] for line in SCRIPT.splitlines() if re.match(r"(import|from) ", line)}
    assert found == {"io", "json", "platform", "sys", "time", "numpy", "onnxruntime"}


def test_outputs_come_back_right(device):
    device.check()
    assert output_difference(device, *probe_model()) < 1e-4


def test_it_measures_like_any_device_interleaved_with_the_baseline(device):
    model, example = probe_model()
    bigger = nn.Sequential(nn.Upsample(scale_factor=4), model).eval()
    setting = Setting(time_limit=0.3)
    found = measure_latency({"bigger": bigger}, example, device=device, baseline=model, setting=setting)["bigger"]
    assert found.device == "ssh:somewhere"
    assert found.ratio > 1
    assert found.ratio_interval is not None
    assert set(device.versions()) == {"onnxruntime", "torch", "onnx"}
    assert device.place()


def test_errors_of_the_far_side_are_one_line(device):
    with pytest.raises(GhostsearchError, match="ssh:somewhere cannot run this model") as caught:
        device.link.ask("load", [b"no graph"], model=99, names=[], threads=1)
    assert "\n" not in str(caught.value)
    device.check()


def test_a_broken_connection_is_told_and_the_next_use_reconnects():
    device = SshOnnxRuntime("ssh:other", [*LOCAL, "another"])
    device.check()
    broken = device.link
    broken.process.kill()
    broken.process.wait()
    with pytest.raises(GhostsearchError, match="ssh:other cannot be reached"):
        broken.ask("hello")
    device.check()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ([sys.executable, "-c", "import absent_package"], "No module named 'absent_package'"),
        (["no-such-ssh"], "'no-such-ssh' does not start"), ([sys.executable, "-c", "print('hello')"], "code"),
        ([sys.executable, "-c", "print('{\"sizes\": [99999999999]}')"], "cannot be reached"),
    ],
)  # fmt: skip
def test_what_does_not_answer_is_told_by_its_own_last_line(command, told):
    with pytest.raises(GhostsearchError, match=told):
        SshOnnxRuntime("ssh:broken", command).check()


@pytest.mark.parametrize(
    "name", ["ssh:", "ssh:-oProxyCommand=evil", "ssh:a b", "ssh:user@-host", "ssh:host:py;rm", "ssh:host\n"]
)
def test_a_name_can_be_no_option_and_no_command(name):
    with pytest.raises(GhostsearchError, match="names no machine; write ssh:user@host"):
        get_device(name)


def test_the_words_are_an_argument_list_with_one_quoted_word_for_the_far_shell(monkeypatch):
    monkeypatch.setenv(COMMAND_VARIABLE, "ssh -p 2222")
    command = SshOnnxRuntime("ssh:pi@board:/home/pi/my-env/bin/python").command
    assert command[:3] == ("ssh", "-p", "2222")
    assert command[-3:-1] == ("--", "pi@board")
    assert shlex.split(command[-1]) == ["/home/pi/my-env/bin/python", "-u", "-c", SCRIPT]
    assert "BatchMode=yes" in command
    assert not any("StrictHostKeyChecking" in word for word in command), "that is ssh's and the user's business"


@pytest.fixture
def sshd(tmp_path, monkeypatch):
    """A real ssh server on loopback with throwaway keys, known to the ssh command that is used; its folder."""
    server = shutil.which("sshd", path=f"/usr/sbin:/sbin:{os.environ['PATH']}")
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
    (tmp_path / "server").write_text("\n".join(settings) + "\n")
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}")
    (tmp_path / "client").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {tmp_path}/user\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {tmp_path}/known\n GlobalKnownHostsFile /dev/null\n"
    )
    process = subprocess.Popen([server, "-D", "-e", "-f", tmp_path / "server"], stderr=subprocess.PIPE)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here ({process.stderr.read().decode()[:100]})")
        time.sleep(0.1)
    monkeypatch.setenv(COMMAND_VARIABLE, shlex.join(["ssh", "-F", str(tmp_path / "client")]))
    yield tmp_path
    process.terminate()
    process.wait()


def test_a_self_test_over_a_real_ssh_server(sshd):
    found = self_test(f"ssh:board:{sys.executable}")
    assert found.passed, found.detail
    assert found.difference < 1e-4


def test_an_unknown_host_and_a_foreign_key_are_refused_by_ssh_itself(sshd):
    (sshd / "known").write_text("")
    with pytest.raises(GhostsearchError, match="Host key verification failed"):
        get_device(f"ssh:board:{sys.executable}")
    host = (sshd / "host.pub").read_text()
    port = re.search(r"Port (\d+)", (sshd / "server").read_text())[1]
    (sshd / "known").write_text(f"[127.0.0.1]:{port} {host}")
    (sshd / "allowed").write_text("")
    with pytest.raises(GhostsearchError, match="Permission denied"):
        get_device(f"ssh:board:{sys.executable}")


def test_the_command_line_tests_a_machine_by_its_name(monkeypatch, capsys):
    from ghostsearch.cli.main import main

    monkeypatch.setattr(SshOnnxRuntime, "_ssh", staticmethod(lambda name: tuple(LOCAL)))
    monkeypatch.setattr(sys, "argv", ["ghostsearch", "devices", "ssh:board", "--self-test", "--json"])
    with contextlib.suppress(SystemExit):
        main()
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["available"]) == ("ssh:board", True)
    assert row["median_s"] > 0
