"""Generate the Python stubs from the .proto files, or with `--check` say whether they drifted."""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent.parent / "proto"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        with tempfile.TemporaryDirectory() as directory:
            _generate(Path(directory))
            drifted = _differences(Path(directory), PROTO)
        for name in drifted:
            print(f"{name} does not match its .proto: run `make stubs`", file=sys.stderr)
        return 1 if drifted else 0
    _generate(PROTO)
    return 0


def _generate(out: Path) -> None:
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("meterd_proto/v1/*.proto"))
    plugin = Path(sys.executable).parent
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.",
         f"--plugin=protoc-gen-mypy={plugin / 'protoc-gen-mypy'}",
         f"--plugin=protoc-gen-mypy_grpc={plugin / 'protoc-gen-mypy_grpc'}",
         f"--python_out={out}", f"--mypy_out=quiet:{out}",
         f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *sources],
        cwd=PROTO, check=True,
    )  # fmt: skip


def _differences(fresh: Path, kept: Path) -> list[str]:
    names = sorted(
        {
            str(path.relative_to(side))
            for side in (fresh, kept)
            for pattern in GENERATED
            for path in side.glob(f"meterd_proto/v1/{pattern}")
        }
    )
    return [
        name
        for name in names
        if not ((fresh / name).exists() and (kept / name).exists())
        or not filecmp.cmp(fresh / name, kept / name, shallow=False)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
