"""Generates broker/v1 from protos/, or with --check tells whether it is up to date."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import google.rpc.status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("broker/v1")
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def _compile(*options: str) -> list[Path]:
    """Run protoc over every .proto file below protos/; returns them."""
    sources = sorted(PROTOS.glob("broker/**/*.proto"))
    google_protos = Path(google.rpc.status_pb2.__file__).parents[2]
    well_known = Path(protoc.__file__).parent / "_proto"
    includes = (f"-I{PROTOS}", f"-I{google_protos}", f"-I{well_known}")
    names = (str(source.relative_to(PROTOS)) for source in sources)
    code = protoc.main(["protoc", *includes, *options, *names])
    if code != 0:
        sys.exit(code)
    return sources


def image(path: Path) -> None:
    """Write what `buf lint` reads: all descriptors with their comments."""
    _compile("--include_imports", "--include_source_info", f"--descriptor_set_out={path}")


def generate(target: Path) -> None:
    """Write the Python modules of every .proto file below protos/ into `target`."""
    sources = _compile(
        *(
            f"--plugin=protoc-gen-{name}={Path(sys.executable).parent}/protoc-gen-{name}"
            for name in ("mypy", "mypy_grpc")
        ),
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
    )
    for source in sources:
        if "\nservice " not in source.read_text():
            # protoc writes an empty gRPC module for a file without services.
            stem = target / source.relative_to(PROTOS).with_suffix("")
            for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
                Path(f"{stem}{suffix}").unlink(missing_ok=True)


def generated_files(folder: Path) -> set[str]:
    """Names of the generated modules in one folder."""
    return {path.name for path in folder.glob("*") if path.name.endswith(SUFFIXES)}


def differences(fresh: Path, committed: Path) -> list[str]:
    """Names of modules that are missing, left over or different in `committed`."""
    wanted, present = generated_files(fresh), generated_files(committed)
    return sorted(
        (wanted ^ present)
        | {
            name
            for name in wanted & present
            if not filecmp.cmp(fresh / name, committed / name, shallow=False)
        }
    )


def main() -> None:
    """Generate, or check what is there against what would be generated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if out of date")
    parser.add_argument("--image", type=Path, help="only write descriptors for `buf lint` there")
    options = parser.parse_args()
    if options.image:
        image(options.image)
        return
    committed = ROOT / PACKAGE
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / PACKAGE
        stale = differences(fresh, committed)
        if not stale:
            return
        if options.check:
            sys.exit(f"{PACKAGE} is out of date, run `make protos`: {', '.join(stale)}")
        wanted = generated_files(fresh)
        committed.mkdir(parents=True, exist_ok=True)
        for name in stale:
            if name in wanted:
                shutil.copyfile(fresh / name, committed / name)
            else:
                (committed / name).unlink()
    print(f"renewed in {PACKAGE}: {', '.join(stale)}")


if __name__ == "__main__":
    main()
