"""The package's version and those of the libraries its figures depend on."""

from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "torch", "torchvision", "timm", "lightning", "optuna", "ray", "fvcore", "ultralytics-thop", "torch-pruning",
    "onnx", "onnxruntime", "openvino", "executorch", "scipy", "pandas",
)  # fmt: skip


def installed_version(package: str) -> str | None:
    """The installed version of a package, or None where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


VERSION = installed_version("ghostsearch") or "0+checkout"


def versions() -> dict[str, str]:
    """Versions of ghostsearch and of every library its figures depend on that is installed here."""
    found = {name: installed_version(name) for name in PACKAGES}
    return {"ghostsearch": VERSION, **{name: v for name, v in found.items() if v}}
