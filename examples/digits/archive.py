"""Pack the workflow into the archive that a server takes: `python examples/digits/archive.py OUT.zip`."""

import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEMBERS = ("cnn.pt", "mlp.onnx", "steps.py", "workflow.yaml")  # sorted
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: equal files give equal archives


def build_archive(target: Path) -> Path:
    """Write the workflow's archive to `target`, byte for byte the same whenever the files are, and return `target`."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in MEMBERS:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, (HERE / name).read_bytes(), compresslevel=9)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python archive.py OUT.zip")
    print(build_archive(Path(sys.argv[1])))
