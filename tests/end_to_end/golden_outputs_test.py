"""Results of the plain backend as they were: golden_outputs_test.py ENGINE_PROBE KASCADE_SERVER

Records the portable cases of same_bits/record.py and compares them with
golden/same_bits/reference.txt. Tokens, choices of keys and counts must be equal. Log-probabilities
may differ by TOLERANCE: the plain backend's own arithmetic is the same on every x86-64 processor, but
exp, sin and cos are the C library's, which takes other instructions on other processors and may then
round differently. After a change of results that is meant, record anew:

    tests/same_bits/record.py --reference-only --out tests/golden/same_bits/reference.txt \\
        --engine-probe FILE --kascade-server FILE --protos proto
"""

import pathlib
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "same_bits"))
from recording import differences, print_differences  # noqa: E402

GOLDEN = TESTS / "golden" / "same_bits" / "reference.txt"
TOLERANCE = 2e-6  # absolute


def record(engine_probe, server, out):
    subprocess.run(
        [sys.executable, TESTS / "same_bits" / "record.py", "--reference-only", "--out", out,
         "--engine-probe", engine_probe, "--kascade-server", server,
         "--protos", TESTS.parent / "proto"], check=True)


def main(arguments):
    if len(arguments) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "recorded.txt"
        record(*arguments, out)
        found, count = differences(GOLDEN.read_text(), out.read_text(), TOLERANCE)
    if found or not count:
        print_differences(found)
        print(f"{len(found)} of {count} cases differ from {GOLDEN}; if that is meant, record anew:")
        sys.exit(__doc__.split("record anew:\n")[1])
    print(f"{count} cases as they were")


if __name__ == "__main__":
    main(sys.argv[1:])
