"""The networks that come with jaxperturb."""

from pathlib import Path

from jaxperturb.checkpoints import manifest as manifests


def bundled() -> dict[str, Path]:
    """Returns the folder of each bundled checkpoint by its name, in alphabetical order."""
    package = Path(__file__).resolve().parents[1]
    # An installed wheel carries them inside the package, a source tree beside it.
    for root in (package / "weights", package.parent / "weights"):
        folders = sorted(path.parent for path in root.glob(f"[!.]*/{manifests.FILE}"))
        if folders:
            return {folder.name: folder for folder in folders}
    return {}


def bundled_summaries() -> dict[str, str]:
    """Returns one line about each bundled checkpoint by its name.

    Raises:
        CheckpointError: one is damaged.
    """
    return {name: manifests.read_manifest(folder).summary for name, folder in bundled().items()}
