"""Commands on disks that are full or take no files: file systems made for the test, in a namespace of its own."""

import json
import subprocess
import sys

import pytest

IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = """
ro=$1 full=$2 temporary=$3; shift 3
mount -t tmpfs -o ro,size=64k tmpfs "$ro" && mount -t tmpfs -o size=4k tmpfs "$full" &&
    mount -t tmpfs -o size=8k tmpfs "$temporary" || exit 99
exec "$@"
"""
"""Mounts a read-only disk, a full one and one on which the file that ONNX Runtime leaves there has room, without which
Python would choose another directory; they go with the namespace.
"""
RUNS = """
import contextlib, io, json, os, sys, tempfile
from ghostsearch.cli.main import main

def run(temporary, *arguments):
    "Exit code, both streams and the files below a place, of a command in this process."
    out, err, sys.argv, tempfile.tempdir = io.StringIO(), io.StringIO(), ["ghostsearch", *arguments], temporary
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    at = os.path.dirname(arguments[-1])
    return code, err.getvalue(), sorted(os.path.join(where, name) for where, _, names in os.walk(at) for name in names)

print(json.dumps({name: run(*words) for name, words in json.loads(sys.argv[1]).items()}))
"""
"""All commands one after the other: an interpreter each would take seconds."""
CONVERT = ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(ratio=2, kernel=3)", "--quiet"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit code, standard error and files left, by command; skips where only the administrator may mount anything."""
    base = tmp_path_factory.mktemp("disks")
    ro, full, temporary, made = (base / name for name in ("ro", "full", "temporary", "made"))
    for folder in (ro, full, temporary, made):
        folder.mkdir()
    fit = ["--calibrate", "digits", "--calibration-images", "32"]
    commands = {
        "read only": [None, *CONVERT, "--calibrate", "folder:nowhere", "--out", f"{ro}/out"],
        "full": [None, *CONVERT, "--out", f"{full}/out"],
        "fit": [str(temporary), *CONVERT, *fit, "--out", f"{made}/out"],
        "int8": [str(temporary), "export", "--int8", "--calibrate", "digits", f"{made}/out"],
    }
    mounted = [*IN_NAMESPACE, MOUNT, "sh", str(ro), str(full), str(temporary)]
    try:
        subprocess.run([*mounted, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems cannot be mounted in a namespace here: {error}")
    done = subprocess.run(
        [*mounted, sys.executable, "-c", RUNS, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    return base, json.loads(done.stdout.splitlines()[-1])


def one_line(outcome, told):
    code, err, _ = outcome
    assert code == 2, outcome
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    assert told in lines[0].replace("\n", "")
    assert "Traceback" not in err


def test_a_read_only_output_folder_is_told_before_any_image_is_read(outcomes):
    base, of = outcomes
    one_line(of["read only"], f"{base}/ro/out: cannot be written (Read-only file system)")


def test_a_disk_that_fills_up_while_the_model_is_written(outcomes):
    _, of = outcomes
    one_line(of["full"], "No space left on device")
    assert of["full"][2] == [], "nothing half-written is left"


def test_a_fit_needs_no_temporary_disk_and_an_int8_export_names_it(outcomes):
    base, of = outcomes
    code, err, files = of["fit"]
    assert code == 0, err
    assert files
    one_line(of["int8"], f"temporary directory {base}/temporary")
    assert of["int8"][2] == files
