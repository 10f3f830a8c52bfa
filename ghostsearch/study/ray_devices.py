"""Where a device is in a Ray cluster: what measures runs in the one actor that holds the device's resource."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NAMESPACE = "ghostsearch"
RETRIES = 2
"""How often a worker that died is replaced."""
PAUSE_S = 1.0
"""Before a device's dead actor is replaced, and longer each time."""


def device_resource(device: str) -> str:
    """The custom resource that stands for a device: `device:onnxruntime-cpu` for `onnxruntime:cpu`."""
    return f"device:{device.replace(':', '-')}"


def on_device(place: str, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """Call a function in the actor that holds the device's resource: one at a time, where the device is.

    The actor is shared by all that measure on the cluster; where its first user went away, another one is made.
    """
    # A progress bar stays where its terminal is.
    options.pop("progress", None)
    # Opened there by us, when the user's own modules in the working directory can be found.
    call = cloudpickle.dumps((function, args, options))
    # Outside a trial's own placement group, which has no device in it.
    anywhere = PlacementGroupSchedulingStrategy(placement_group=None)  # type: ignore[arg-type]
    name, remote = device_resource(place), cast(Any, ray.remote)
    kind = remote(num_cpus=0, resources={name: 1.0}, scheduling_strategy=anywhere)(Measurer)
    # Of this cluster: a process may have left another one.
    key = ray.get_runtime_context().get_node_id(), name
    for left in reversed(range(RETRIES + 1)):
        if key not in _MEASURERS:
            _MEASURERS[key] = kind.options(name=name, namespace=NAMESPACE, get_if_exists=True).remote()
        try:
            return ray.get(_MEASURERS[key].call.remote(str(Path.cwd()), call))
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError:
            del _MEASURERS[key]
            if not left:
                raise
            # The cluster may know the dead actor by its name for a moment still.
            time.sleep(PAUSE_S * (RETRIES + 1 - left))
    return None


_MEASURERS: dict[tuple[str, str], Any] = {}
"""Handles of the device actors this process has used: Ray ends an actor that nobody holds, and a new one's start costs
seconds a trial.
"""


class Measurer:
    """Lives on the device's node and keeps what it imported, so that a timing costs no start of a process."""

    def call(self, directory: str, call: bytes) -> Any:
        """Run what `on_device` was given."""
        work_in(directory)
        function, args, options = cloudpickle.loads(call)
        return function(*args, **options)


def work_in(directory: str) -> None:
    """Change into the driver's working directory, if this machine has it, for relative paths and the user's modules."""
    if Path(directory).is_dir():
        os.chdir(directory)
        if directory not in sys.path:
            sys.path.insert(0, directory)
