#!/usr/bin/env python3
"""Lists files above 400 lines and functions above 40 in engine/, server/, client/ and tools/.

Usage: sizes.py [ROOT]. Fails on each that EXCEPTIONS does not explain, and on an entry of EXCEPTIONS
that explains nothing any more. C++ is read as clang-format writes it: a function ends at the first
line that begins with `}` at the indentation of its first line.
"""

import ast
import pathlib
import re
import sys

FILE_LINES, FUNCTION_LINES = 400, 40
FOLDERS = ("engine", "server", "client", "tools")
CPP = {".h", ".cc", ".cu", ".cuh"}

# "file" or "file:function" → why it may be longer.
UNROLLED = "a hand-unrolled kernel: its registers are one block"
EXCEPTIONS = {
    "engine/backend/cpu/bf16_row.h:dot_rows": UNROLLED,
    "engine/backend/cpu/bf16_row_kernels.cc:add_values": UNROLLED,
}

NO_FUNCTION = re.compile(r"\s*(namespace|class|struct|union|enum|extern)\b|\s*template\b.*\b(class|struct) \w+ [:{]")
# What comes before the parentheses of a function: its name, also `operator()` and `~Type`.
NAME = re.compile(r"(operator\s*(?:\(\)|[^\s(]+)|~?\w+)\s*\(")


def first_line_of(lines, opening):
    """Index of the first line of the declaration whose `{` ends the line `opening`."""
    first = opening
    while first > 0:
        before = lines[first - 1].strip()
        if not before or before.startswith(("//", "#")) or before.endswith((";", "{", "}", ":", "*/")):
            break
        first -= 1
    return first


def cpp_function(lines, opening):
    """(name, index of its first line) when the line `opening` opens a function's body, else None."""
    first = first_line_of(lines, opening)
    head = " ".join(line.strip() for line in lines[first:opening + 1])
    if NO_FUNCTION.match(head) or head.endswith(("= {", "({", "{{", ", {")):
        return None
    name = NAME.search(re.sub(r"^template <.*?> (?=\w)|__attribute__\(\(.*?\)\)", "", head))
    return (name[1], first) if name else None


def closing_line(lines, first, opening):
    """Index of the line that closes what the line `opening` opens."""
    indentation = re.match(r" *", lines[first])[0]
    for index in range(opening + 1, len(lines)):
        if lines[index].startswith(indentation + "}"):
            return index
    return len(lines) - 1


def cpp_functions(text):
    """[(name, number of its first line, lines)] of C++ text; lambdas belong to their function."""
    lines, found, index = text.splitlines(), [], 0
    while index < len(lines):
        function = cpp_function(lines, index) if lines[index].endswith("{") else None
        if function:
            name, first = function
            last = closing_line(lines, first, index)
            found.append((name, first + 1, last - first + 1))
            index = last
        index += 1
    return found


def python_functions(text):
    """The same of Python text."""
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [(node.name, node.lineno, node.end_lineno - node.lineno + 1)
            for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]


def long_parts(name, text):
    """[(key of EXCEPTIONS, message)] of one file."""
    lines = text.count("\n")
    parts = [(name, f"{name}: {lines} lines, at most {FILE_LINES}")] if lines > FILE_LINES else []
    functions = python_functions(text) if name.endswith(".py") else cpp_functions(text)
    for function, line, length in functions:
        if length > FUNCTION_LINES:
            parts.append((f"{name}:{function}", f"{name}:{line}: {function} has {length} lines, "
                          f"at most {FUNCTION_LINES}"))
    return parts


def problems_of(files, exceptions):
    """files: name → text."""
    parts = [part for name, text in sorted(files.items()) for part in long_parts(name, text)]
    keys = {key for key, _ in parts}
    return ([message for key, message in parts if key not in exceptions] +
            [f"{key}: no longer above the limit; remove it from EXCEPTIONS"
             for key in exceptions if key not in keys])


def sources(root):
    return {path.relative_to(root).as_posix(): path.read_text() for folder in FOLDERS
            for path in (root / folder).rglob("*") if path.suffix in CPP | {".py"}}


CPP_SAMPLE = """\
// Comment {
namespace a {
struct Shape {
  Shape(int a, int b)
      : a_(a),
        b_(b) {
    use();
  }
  bool operator()(int x) const {
    return x;
  }
  int two() { return 2; }
  int a_ = 0;
};

const std::map<int, int> kTable = {
    {1, 2},
};

template <typename T>
std::vector<T> long_name(int first,
                         int second) {
  const auto inner = [&](int x) {
    if (x) {
      return 1;
    }
    return 2;
  };
  return inner(first);
}

KASCADE_INLINE void kernel(float* to) {
#pragma omp simd
  for (int i = 0; i < 4; ++i) {
    to[i] = 0;
  }
}  // kernel
}  // namespace a
"""


def self_test():
    assert cpp_functions(CPP_SAMPLE) == [("Shape", 4, 5), ("operator()", 9, 3), ("long_name", 20, 11),
                                         ("kernel", 32, 6)], cpp_functions(CPP_SAMPLE)
    assert python_functions("def f():\n    return 1\n\n\nx = 2\n") == [("f", 1, 2)]
    body = "  f();\n" * (FUNCTION_LINES - 2)
    assert not problems_of({"engine/a.cc": "void g() {\n" + body + "}\n"}, {})
    long = {"engine/a.cc": "void g() {\n" + body + "  f();\n}\n"}
    assert problems_of(long, {}) == ["engine/a.cc:1: g has 41 lines, at most 40"]
    assert not problems_of(long, {"engine/a.cc:g": "why"})
    assert problems_of({"engine/a.h": "\n" * 401}, {}) == ["engine/a.h: 401 lines, at most 400"]
    assert len(problems_of({}, {"engine/a.cc": "why"})) == 1


def main():
    self_test()
    files = sources(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    problems = problems_of(files, EXCEPTIONS) or ([] if files else ["no sources found"])
    print("\n".join(problems) or f"{len(files)} files keep to their sizes")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
