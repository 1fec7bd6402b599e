"""Python stubs of proto/, for tests that call the server as another language's client does."""

import os
import pathlib
import shutil
import subprocess
import sys

PROTOS = pathlib.Path(__file__).resolve().parents[2] / "proto"
SKIPPED = 77


def skip(reason):
    """Ends the test program: skipped, or failed where KASCADE_REQUIRE_DATA=1 allows no skips."""
    required = os.environ.get("KASCADE_REQUIRE_DATA") == "1"
    print(f"{'FAILED, KASCADE_REQUIRE_DATA is set' if required else 'skipped'}: {reason}",
          file=sys.stderr)
    sys.exit(1 if required else SKIPPED)


def generate_stubs(folder):
    """Writes the stubs to the folder, from where they can be imported afterwards."""
    plugin = shutil.which("grpc_python_plugin")
    if plugin is None or shutil.which("protoc") is None:
        skip("protoc or grpc_python_plugin not found")
    subprocess.run(
        ["protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--grpc_out={folder}",
         f"--plugin=protoc-gen-grpc={plugin}", *map(str, sorted(PROTOS.glob("kascade/v1/*.proto")))],
        check=True)
    sys.path.insert(0, str(folder))
