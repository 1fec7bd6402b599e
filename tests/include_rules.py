#!/usr/bin/env python3
"""Checks who may include whom (RULES below) in engine/, server/ and client/.

Usage: include_rules.py [ROOT]. Fails on a file without a rule, an include that its rule does not
list, and a header of a library that only one place may see.
"""

import fnmatch
import pathlib
import re
import sys

SOURCES = {".h", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# All of engine/ and server/: the vocabulary, the macro for our own bugs, checksums, SHA-256,
# errors of means.
COMMON = ["engine/types.h", "engine/check.h", "engine/checksum.h", "engine/digest.h",
          "engine/standard_error.h"]

# File pattern → patterns of ours that it may include. The first that matches a file counts; a
# file's own header is always allowed, COMMON to all but the client.
RULES = [
    ("engine/types.h", []),
    ("engine/check.h", []),
    ("engine/checksum.h", []),
    ("engine/digest.*", []),
    ("engine/standard_error.h", []),
    ("engine/tensor.h", []),
    ("engine/backend/*", ["engine/backend/*", "engine/tensor.h"]),
    ("engine/cache/blocks.*", []),
    ("engine/cache/kv_cache.*", ["engine/backend/*", "engine/cache/blocks.h", "engine/tensor.h"]),
    ("engine/attention/*", ["engine/attention/*", "engine/backend/*", "engine/tensor.h"]),
    ("engine/model/*", ["engine/model/*", "engine/backend/*", "engine/cache/kv_cache.h",
                        "engine/attention/policy.h", "engine/tensor.h"]),
    ("engine/scheduler/*", ["engine/scheduler/*", "engine/cache/blocks.h"]),
    ("engine/tokenizer/*", ["engine/tokenizer/*"]),
    # kascade-convert; its main draws the client's progress line.
    ("engine/tools/convert_main.cc", ["engine/tools/*", "client/print.h",
                                      "client/progress.h"]),
    ("engine/tools/*", ["engine/tools/*", "engine/model/*", "engine/tokenizer/*",
                        "engine/tensor.h"]),
    ("engine/batcher.*", ["engine/scheduler/*", "engine/backend/batch.h", "engine/tensor.h",
                          "engine/attention/policy.h", "engine/attention/selection.h"]),
    ("engine/softmax.*", []),
    ("engine/sampler.*", ["engine/softmax.h", "engine/tensor.h"]),
    ("engine/scorer.*", ["engine/softmax.h", "engine/tensor.h", "engine/backend/backend.h",
                         "engine/model/transformer.h"]),
    # The engine itself puts the parts together.
    ("engine/engine*", ["engine/*"]),
    ("engine/request_check.*", ["engine/sampler.h", "engine/model/config.h",
                                "engine/attention/schedule.h"]),
    ("engine/step_loop.*", ["engine/*"]),
    ("engine/plan_search.*", []),
    ("engine/calibration*", ["engine/*"]),
    ("server/*", ["server/*", "kascade/v1/*", "engine/engine.h", "engine/calibration*.h",
                  "engine/attention/schedule.h", "engine/tokenizer/chat.h",
                  "engine/tokenizer/tokenizer.h", "engine/tokenizer/utf8.h",
                  "engine/model/config.h"]),
    ("client/*", ["client/*", "kascade/v1/*"]),
]

# Header pattern of a library → where alone it may be included.
LIBRARIES = [
    (["cuda*", "cublas*", "cutlass/*", "cub/*", "thrust/*", "nv*"], ["engine/backend/cuda/*"]),
    (["oneapi/*", "dnnl*", "*intrin.h"], ["engine/backend/cpu/*"]),
    (["grpc/*", "grpcpp/*", "google/*", "*.pb.h", "kascade/v1/*"], ["server/*", "client/*"]),
]

OURS = ("engine/", "server/", "client/", "kascade/", "tests/")


def matches(path, patterns):
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def problem(file, include, quoted):
    """Why `file` may not include `include`, or None."""
    for headers, places in LIBRARIES:
        if matches(include, headers) and not matches(file, places):
            return "only for " + ", ".join(places)
    if not include.startswith(OURS):
        # Quotes are for ours and absl's; a bare name would be a path relative to the file.
        return "give the path from the root" if quoted and "/" not in include else None
    allowed = next((allowed for pattern, allowed in RULES if matches(file, [pattern])), [])
    own = str(pathlib.PurePosixPath(file).with_suffix(".h"))
    allowed = allowed + ([] if file.startswith("client/") else COMMON)
    if include == own or matches(include, allowed):
        return None
    return "not among " + ", ".join(allowed)


def check_text(file, text):
    problems = []
    if not matches(file, [pattern for pattern, _ in RULES]):
        problems.append(f"{file}: no rule for this file")
    for match in INCLUDE.finditer(text):
        reason = problem(file, match[2], match[1] == '"')
        if reason:
            line = text.count("\n", 0, match.start(2)) + 1
            problems.append(f"{file}:{line}: includes {match[2]}: {reason}")
    return problems


def check_tree(root):
    files = sorted(path for folder in ("engine", "server", "client")
                   for path in (root / folder).rglob("*") if path.suffix in SOURCES)
    problems = []
    for path in files:
        problems += check_text(path.relative_to(root).as_posix(), path.read_text())
    return files, problems


def self_test():
    bad = [
        ("engine/types.h", '#include "engine/tensor.h"'),
        ("engine/cache/blocks.cc", '#include "engine/tensor.h"'),
        ("engine/backend/reference.cc", '#include "engine/attention/policy.h"'),
        ("engine/backend/reference.cc", "#include <immintrin.h>"),
        ("engine/backend/reference.cc", "  #  include <oneapi/dnnl/dnnl.hpp>"),
        ("engine/backend/cpu/cpu.cc", "#include <cuda_runtime.h>"),
        ("engine/attention/dense.cc", '#include "engine/model/transformer.h"'),
        ("engine/model/transformer.h", '#include "engine/attention/schedule.h"'),
        ("engine/scheduler/scheduler.h", '#include "engine/tensor.h"'),
        ("engine/tokenizer/bpe.cc", '#include "engine/model/config.h"'),
        ("engine/batcher.cc", '#include "engine/attention/schedule.h"'),
        ("engine/sampler.cc", '#include "engine/backend/backend.h"'),
        ("engine/engine.cc", "#include <grpcpp/grpcpp.h>"),
        ("engine/engine.cc", '#include "kascade/v1/inference.pb.h"'),
        ("engine/engine.cc", '#include "server/translate.h"'),
        ("server/translate.cc", '#include "engine/scheduler/scheduler.h"'),
        ("client/main.cc", '#include "engine/types.h"'),
        ("client/main.cc", '#include "engine/engine.h"'),
        ("engine/new_part.cc", "#include <vector>"),
        ("engine/engine.cc", '#include "batcher.h"'),
    ]
    good = [
        ("engine/backend/cpu/rows.cc", '#include <immintrin.h>\n#include "engine/tensor.h"'),
        ("engine/backend/cuda/rows.cu", "#include <cuda_runtime.h>"),
        ("engine/scheduler/scheduler.cc", '#include "engine/types.h"\n#include <map>'),
        ("engine/batcher.cc", '#include "engine/attention/selection.h"'),
        ("engine/engine.cc", '#include "absl/status/status.h"\n#include "engine/batcher.h"'),
        ("server/main.cc", '#include "engine/engine.h"\n#include "kascade/v1/inference.pb.h"'),
    ]
    for file, text in bad:
        assert check_text(file, text), f"accepts {file} with {text}"
    for file, text in good:
        assert not check_text(file, text), f"refuses {file} with {text}"


def main():
    self_test()
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    files, problems = check_tree(root)
    if not files:
        problems.append(f"{root}: no sources found")
    print("\n".join(problems) or f"{len(files)} files keep the include rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
