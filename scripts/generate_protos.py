"""Generates deployments/protocols/generated from proto/: `python -m scripts.generate_protos`.

protoc's own output registers its messages in the default descriptor pool and imports modules by their bare names. What
is written here uses the package's pool (see its docstring) and the package's modules instead.
"""

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "proto"
PACKAGE = "deployments.protocols.generated"
GENERATED = ROOT.joinpath(*PACKAGE.split("."))
DEFAULT_POOL = "_descriptor_pool.Default()"
HEADER = "# Written by scripts/generate_protos.py from proto/; do not edit.\n"


def generate() -> dict[str, str]:
    """The text of each generated module by its file name. Raises RuntimeError if protoc refuses a file."""
    with tempfile.TemporaryDirectory() as directory:
        for path in sorted(PROTOS.glob("*.proto")):
            _compile(path, directory)
        return {path.name: _in_package(path.read_text(encoding="utf-8")) for path in sorted(Path(directory).iterdir())}


def main() -> int:
    modules = generate()
    for stale in GENERATED.glob("*_pb2*.py"):
        if stale.name not in modules:
            stale.unlink()
    for name, text in modules.items():
        (GENERATED / name).write_text(text, encoding="utf-8")
    return 0


def _compile(path: Path, directory: str) -> None:
    includes = [f"-I{PROTOS}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    outputs = [f"--python_out={directory}"]
    if re.search(r"^service ", path.read_text(encoding="utf-8"), re.MULTILINE):
        outputs.append(f"--grpc_python_out={directory}")
    if protoc.main(["protoc", *includes, *outputs, str(path)]) != 0:
        raise RuntimeError(f"protoc refuses {path}; its reasons are above.")


def _in_package(text: str) -> str:
    text = text.replace(DEFAULT_POOL, "_POOL")
    text = re.sub(r"^import (\w+_pb2) as", rf"from {PACKAGE} import \1 as", text, flags=re.MULTILINE)
    # The module of each message, by which pickle finds its class again.
    text = re.sub(r"(BuildTopDescriptorsAndMessages\(DESCRIPTOR, ')", rf"\1{PACKAGE}.", text)
    if "_POOL" in text:
        text = text.replace("\n_sym_db =", f"\nfrom {PACKAGE} import POOL as _POOL\n\n_sym_db =", 1)
    return HEADER + text


if __name__ == "__main__":
    sys.exit(main())
