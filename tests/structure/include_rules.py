#!/usr/bin/env python3
"""Checks who may include whom (RULES below) in engine/, server/, client/ and tools/.

Usage: include_rules.py [ROOT]. Fails on a file without a rule, an include that its rule does not
list, and a header of a library that only one place may see.
"""

import pathlib
import re
import sys

SOURCES = {".h", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# Every room of engine/, and what is built on it, may include this one.
BASE = ["engine/base/*"]

# The engine as the server sees it.
ENGINE = ["engine/engine.h", "engine/request.h", "engine/calibration/calibration.h",
          "engine/calibration/run_results.h", "engine/calibration/windows.h", "engine/trace/*.h", "engine/schedule/*.h", "engine/quality/*",
          "engine/sampling/scored_token.h", "engine/tokenizer/chat.h",
          "engine/tokenizer/tokenizer.h", "engine/tokenizer/utf8.h", "engine/model/config.h"]

# File pattern → patterns of ours that it may include. The first that matches a file counts; a
# file's own header is always allowed, and so is BASE to all but the client. Rooms only include
# rooms that stand below them in this table.
RULES = [
    ("engine/base/*", []),
    ("engine/backend/cpu/*", ["engine/backend/*", "engine/backend/host/*", "engine/backend/cpu/*"]),
    ("engine/backend/cuda/**", ["engine/backend/*", "engine/backend/host/*",
                                "engine/backend/cuda/**"]),
    ("engine/backend/reference/*", ["engine/backend/*", "engine/backend/host/*",
                                    "engine/backend/reference/*"]),
    ("engine/backend/host/*", ["engine/backend/*", "engine/backend/host/*"]),
    ("engine/backend/*", ["engine/backend/*", "engine/backend/cpu/*", "engine/backend/reference/*"]),
    ("engine/cache/blocks.*", []),
    ("engine/cache/*", ["engine/cache/*", "engine/backend/*"]),
    ("engine/quality/*", ["engine/quality/*"]),
    ("engine/schedule/*", ["engine/schedule/*"]),
    ("engine/attention/*", ["engine/attention/*", "engine/schedule/*", "engine/backend/*"]),
    ("engine/model/families/*", ["engine/model/families/*", "engine/model/config.h",
                                 "engine/model/config_fields.h", "engine/model/json.h"]),
    ("engine/model/*", ["engine/model/*", "engine/model/families/*", "engine/backend/*", "engine/cache/kv_cache.h",
                        "engine/attention/*"]),
    # Trained sparse attention: what an adapter is, and its training.
    ("engine/adapter/*", ["engine/adapter/*", "engine/model/config.h", "engine/model/file.h",
                          "engine/model/json.h", "engine/model/safetensors.h"]),
    ("engine/training/*", ["engine/training/*", "engine/adapter/*", "engine/backend/backend.h",
                           "engine/model/*"]),
    ("engine/tokenizer/*", ["engine/tokenizer/*"]),
    ("engine/sampling/*", ["engine/sampling/*", "engine/backend/*", "engine/model/transformer.h"]),
    ("engine/scheduler/*", ["engine/scheduler/*", "engine/cache/blocks.h"]),
    # What a request may hold: the public door's own vocabulary.
    ("engine/request*", ["engine/request.h", "engine/attention/*", "engine/sampling/*",
                         "engine/schedule/schedule.h", "engine/model/config.h"]),
    ("engine/runtime/*", ["engine/**"]),
    ("engine/calibration/*", ["engine/calibration/*", "engine/attention/*", "engine/backend/*",
                              "engine/backend/host/select.h",
                              "engine/schedule/*", "engine/quality/*", "engine/model/config.h",
                              "engine/engine.h", "engine/request.h", "engine/runtime/*",
                              "engine/tokenizer/chat.h", "engine/tokenizer/tokenizer.h"]),
    ("engine/trace/*", ["engine/trace/*", "engine/attention/*", "engine/backend/*",
                        "engine/backend/host/select.h"]),
    # The engine itself puts the parts together.
    ("engine/engine*", ["engine/**"]),
    # kascade-convert: reads other people's files, writes ours. Nothing uses it.
    ("tools/terminal/*", ["tools/terminal/*"]),
    ("tools/version/*", ["tools/version/*"]),
    ("tools/options/*", ["tools/options/*"]),
    ("tools/bundled_texts/*", ["tools/bundled_texts/*"]),
    # What weight formats cost: runs the forward pass, without the engine's thread and requests.
    ("tools/format_report/*", ["tools/format_report/*", "tools/terminal/*", "engine/attention/*",
                               "engine/backend/*", "engine/cache/*", "engine/model/*",
                               "engine/quality/*", "engine/runtime/batch_builder.h",
                               "engine/scheduler/*", "engine/tokenizer/*"]),
    ("tools/convert/report_command.*", ["tools/format_report/*", "tools/bundled_texts/*",
                                        "tools/options/*", "tools/terminal/*", "tools/version/*",
                                        "engine/model/file.h"]),
    ("tools/convert/pack_command.*", ["tools/terminal/*", "engine/backend/*", "engine/model/*"]),
    ("tools/convert/adapter_*", ["tools/convert/*", "tools/terminal/*", "engine/adapter/*",
                                 "engine/model/*"]),
    ("tools/convert/*", ["tools/convert/*", "tools/options/*", "tools/terminal/*",
                         "tools/version/*", "engine/model/*", "engine/model/families/*",
                         "engine/tokenizer/*", "engine/backend/block_formats.h",
                         "engine/backend/tensor.h"]),
    ("tools/train/*", ["tools/train/*", "tools/options/*", "tools/terminal/*", "tools/version/*",
                       "engine/adapter/*", "engine/training/*", "engine/backend/backend.h",
                       "engine/model/*", "engine/tokenizer/chat.h",
                       "engine/tokenizer/tokenizer.h"]),
    # What the server does, without a wire. LIBRARIES below keeps gRPC and protobuf out.
    ("server/net/*", ["server/net/*"]),
    ("server/security/*", ["server/security/*", "server/net/*"]),
    ("server/metrics/*", ["server/metrics/*", "server/net/*", "engine/engine.h", "tools/version/*"]),
    ("server/log/*", ["server/log/*"]),
    ("server/core/*", ["server/core/*", "server/metrics/metrics.h", "tools/version/*"] + ENGINE),
    # What one connection may do: nothing of requests.
    ("server/grpc/connections/*", ["server/grpc/connections/*", "server/net/*"]),
    ("server/grpc/*", ["server/grpc/*", "server/grpc/connections/*", "server/core/*",
                       "server/metrics/*", "server/net/*", "server/security/*", "server/log/*", "kascade/v1/*",
                       "xds/**"] + ENGINE),
    # Configuration and start.
    ("server/*", ["server/*.h", "server/core/configured_options.h", "server/grpc/server.h",
                  "server/log/*", "server/net/address.h", "tools/options/*", "tools/terminal/*",
                  "tools/version/*"]),
    ("client/**", ["client/**", "kascade/v1/*", "grpc/health/**", "tools/bundled_texts/*",
                   "tools/options/*", "tools/terminal/*", "tools/version/*"]),
    ("tools/demo_model/*", []),
]

# Header pattern of a library → where alone it may be included.
LIBRARIES = [
    (["cuda*", "cublas*", "cutlass/**", "cub/**", "thrust/**", "nv*"], ["engine/backend/cuda/**"]),
    (["oneapi/**", "dnnl*"], ["engine/backend/cpu/*"]),
    (["*intrin.h"], ["engine/backend/cpu/*", "tools/demo_model/*"]),
    (["grpc/**", "grpcpp/**", "google/**", "**.pb.h", "kascade/v1/*"],
     ["server/grpc/**", "server/main.cc", "client/**"]),
    (["prometheus/**"], ["server/metrics/*"]),
]

OURS = ("engine/", "server/", "client/", "tools/", "kascade/", "tests/")


def matches(path, patterns):
    """`*` stands for anything within one folder, `**` for anything."""
    for pattern in patterns:
        parts = [re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("**")]
        if re.fullmatch(".*".join(parts), path):
            return True
    return False


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
    allowed = allowed + ([] if file.startswith("client/") else BASE)
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
    files = sorted(path for folder in ("engine", "server", "client", "tools")
                   for path in (root / folder).rglob("*") if path.suffix in SOURCES)
    problems = []
    for path in files:
        problems += check_text(path.relative_to(root).as_posix(), path.read_text())
    return files, problems


def self_test():
    bad = [
        ("engine/base/types.h", '#include "engine/backend/tensor.h"'),
        ("engine/cache/blocks.cc", '#include "engine/backend/tensor.h"'),
        ("engine/backend/reference/reference.cc", '#include "engine/attention/policy.h"'),
        ("engine/backend/reference/reference.cc", '#include "engine/backend/cpu/kernels.h"'),
        ("engine/backend/reference/reference.cc", "#include <immintrin.h>"),
        ("engine/backend/reference/reference.cc", "  #  include <oneapi/dnnl/dnnl.hpp>"),
        ("engine/backend/cpu/cpu.cc", "#include <cuda_runtime.h>"),
        ("engine/attention/dense.cc", '#include "engine/model/transformer.h"'),
        ("engine/schedule/schedule.h", '#include "engine/attention/policy.h"'),
        ("engine/scheduler/scheduler.h", '#include "engine/backend/tensor.h"'),
        ("engine/tokenizer/bpe.cc", '#include "engine/model/config.h"'),
        ("engine/attention/dense.cc", '#include "engine/calibration/calibration.h"'),
        ("engine/quality/paired.h", '#include "engine/request.h"'),
        ("engine/engine.cc", "#include <grpcpp/grpcpp.h>"),
        ("engine/engine.cc", '#include "kascade/v1/inference.pb.h"'),
        ("engine/engine.cc", '#include "server/core/prompt.h"'),
        ("server/core/scoring.cc", '#include "engine/scheduler/scheduler.h"'),
        ("server/core/scoring.cc", '#include "server/grpc/errors.h"'),
        ("server/core/scoring.cc", "#include <grpcpp/grpcpp.h>"),
        ("server/core/scoring.cc", '#include "google/protobuf/message.h"'),
        ("server/core/scoring.cc", '#include "kascade/v1/score.pb.h"'),
        ("server/core/scoring.cc", '#include "server/config.h"'),
        ("server/metrics/metrics.cc", '#include "server/core/scoring.h"'),
        ("server/grpc/translate_score.cc", '#include "engine/scheduler/scheduler.h"'),
        ("client/main.cc", '#include "engine/base/types.h"'),
        ("client/main.cc", '#include "engine/engine.h"'),
        ("engine/new_part.cc", "#include <vector>"),
        ("engine/engine.cc", '#include "request.h"'),
        ("tools/convert/convert.cc", '#include "client/main.h"'),
        ("engine/engine.cc", '#include "tools/convert/source.h"'),
    ]
    good = [
        ("engine/backend/cpu/rows.cc", '#include <immintrin.h>\n#include "engine/backend/tensor.h"'),
        ("engine/backend/cuda/rows.cu", "#include <cuda_runtime.h>"),
        ("engine/scheduler/scheduler.cc", '#include "engine/base/types.h"\n#include <map>'),
        ("engine/runtime/batch_builder.cc", '#include "engine/attention/policy.h"'),
        ("engine/engine.cc", '#include "absl/status/status.h"\n#include "engine/runtime/step_loop.h"'),
        ("server/main.cc", '#include "server/config.h"\n#include "grpc/support/log.h"'),
        ("server/grpc/score_call.cc",
         '#include "server/core/scoring.h"\n#include "kascade/v1/score.pb.h"'),
        ("server/core/scoring.cc", '#include "engine/engine.h"\n#include <vector>'),
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
