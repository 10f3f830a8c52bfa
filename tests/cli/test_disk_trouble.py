"""Commands on disks that are full or take no files: file systems made for the test, in a namespace of its own."""

import os
import subprocess
import sys

import pytest

IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o "$1" tmpfs "$2" || exit 99; at=$2; shift 2; "$@"; code=$?; find "$at" -type f; exit $code'
"""Runs a command and then lists the files left on the mounted disk, which goes with the namespace."""
CONVERT = ["convert", "ghostsearch:digits_cnn", "--choice", "ghost(ratio=2, kernel=3)", "--quiet"]
FULL, READ_ONLY = "size=4k", "ro,size=64k"


def started(options, place, *arguments, **environment):
    """Run ghostsearch with a small file system of its own mounted at a place."""
    place.mkdir(exist_ok=True)
    command = [
        *IN_NAMESPACE,
        MOUNT,
        "sh",
        options,
        str(place),
        sys.executable,
        "-m",
        "ghostsearch",
        *map(str, arguments),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200", **environment}
    )


@pytest.fixture(scope="module", autouse=True)
def mounts(tmp_path_factory):
    """Skips where no one but the administrator may mount anything."""
    command = [*IN_NAMESPACE, MOUNT, "sh", FULL, str(tmp_path_factory.mktemp("mount")), "true"]
    try:
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems cannot be mounted in a namespace here: {error}")


def one_line(outcome, told):
    assert outcome.returncode == 2, outcome
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, outcome.stderr
    assert told in lines[0]
    assert "Traceback" not in outcome.stderr


def test_a_read_only_output_folder_is_told_before_any_image_is_read(tmp_path):
    outcome = started(
        READ_ONLY, tmp_path / "ro", *CONVERT, "--calibrate", "folder:nowhere", "--out", tmp_path / "ro/out"
    )
    one_line(outcome, f"{tmp_path}/ro/out: cannot be written (Read-only file system)")


def test_a_disk_that_fills_up_while_the_model_is_written(tmp_path):
    outcome = started(FULL, tmp_path / "full", *CONVERT, "--out", tmp_path / "full/out")
    one_line(outcome, "No space left on device")
    assert outcome.stdout == "", "nothing half-written is left"


def test_a_fit_needs_no_temporary_disk_and_an_int8_export_names_it(tmp_path):
    # Room for the file that ONNX Runtime leaves there; without any Python would choose another directory.
    place, full = tmp_path / "temporary", "size=8k"
    outcome = started(
        full, place, *CONVERT, "--calibrate", "digits", "--calibration-images", 32, "--out", tmp_path / "out",
        TMPDIR=str(place),
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    before = sorted(os.listdir(tmp_path / "out"))
    outcome = started(full, place, "export", tmp_path / "out", "--int8", "--calibrate", "digits", TMPDIR=str(place))
    one_line(outcome, f"temporary directory {place}")
    assert sorted(os.listdir(tmp_path / "out")) == before
