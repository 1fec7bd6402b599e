#!/usr/bin/env python3
"""Checks the documents: links, paths, options, words, the README's length.

Usage: docs_test.py ROOT [KASCADE_SERVER KASCADE KASCADE_CONVERT]. With the programs, every option that
docs/cli.md names must be in their help.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = PROGRAMS = None

# docs/quality is written by kascade eval, and has a test of its own.
GENERATED = ("docs/quality/",)
# Folders at the root: a name in backticks that begins with one of them is a path of the repository.
FOLDERS = ("client", "deploy", "docs", "engine", "helm", "models", "proto", "server", "tests", "tools", ".ci")
MAX_README_LINES = 150

# Words of the project's past, and what to say instead. Looked for in prose only: not in code blocks, and
# not in `code`, as options and messages of the wire keep their names.
WORDS = {
    r"\bmakers?\b": "planner",
    r"\b(?:weigh|weighs|weighed|weighing)\b": "measure layer costs, or weight",
    r"\brow[ -]rules?\b": "per-query selection",
    r"\btile[ -]rules?\b": "per-tile selection",
    r"\bgat(?:e|es|ed|ing)\b": "quality check",
    r"\bInFlight\b": "RequestTracker",
    r"\bscratch\b": "workspace, or temporary",
    r"\brivals?\b": "comparison row",
    r"\benlists?\b": "find or create",
    r"\blay_out\b": "build",
    r"\bhow_to_select\b": "select options",
    r"\bDESIGN\b": "docs/decisions",
    r"\bmethod, A\d": "docs/method.md",
}
# A file's own way with a word.
ALLOWED = {("docs/glossary.md", r"\bgat(?:e|es|ed|ing)\b"): ["also called the quality gate"]}


# Files in which a word has its other, usual meaning.
OTHER_MEANING = {r"\bgat(?:e|es|ed|ing)\b": {"docs/adapters.md"}}


def documents():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT,
                            capture_output=True, text=True)
    names = listed.stdout.split("\n") if listed.returncode == 0 else [
        path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.md")
        if not {"build", ".git"} & set(path.relative_to(ROOT).parts)]
    return sorted(name for name in names
                  if name and (ROOT / name).exists() and not name.startswith("tests/bench/results/"))


def without_blocks(text):
    """The text without fenced blocks; their lines stay as empty ones."""
    out, fenced = [], False
    for line in text.split("\n"):
        fence = line.lstrip().startswith("```")
        out.append("" if fenced or fence else line)
        fenced ^= fence
    return "\n".join(out)


def prose(text):
    """The text without code and link targets, on one line each paragraph."""
    text = re.sub(r"`[^`]*`", "`", without_blocks(text))
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def anchors(text):
    """The anchors of headings as GitHub makes them."""
    made = set()
    for heading in re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        made.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return made


def broken_links(name, text):
    problems = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", without_blocks(text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists():
            problems.append(f"{name}: link to {target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            problems.append(f"{name}: link to {target}: no such heading")
    return problems


def missing_paths(name, text):
    problems = []
    for quoted in re.findall(r"`([^`\n]+)`", without_blocks(text)):
        path = quoted.rstrip("/")
        if not re.fullmatch(r"[\w.][\w./-]*", path) or path.split("/")[0] not in FOLDERS:
            continue
        if "/" in path and not (ROOT / path).exists():
            problems.append(f"{name}: `{quoted}`: no such file")
    return problems


def forbidden_words(name, text):
    problems = []
    plain = prose(text)
    for pattern, instead in WORDS.items():
        if name in OTHER_MEANING.get(pattern, ()):
            continue
        own = plain
        for sentence in ALLOWED.get((name, pattern), []):
            own = own.replace(sentence, "")
        for found in re.finditer(pattern, own, re.IGNORECASE):
            around = own[max(0, found.start() - 30):found.end() + 30].replace("\n", " ")
            problems.append(f'{name}: "{found[0]}" in "…{around}…": say {instead}')
    return problems


class Documents(unittest.TestCase):
    def for_each(self, check, generated=True):
        problems = []
        for name in documents():
            if generated or not name.startswith(GENERATED):
                problems += check(name, (ROOT / name).read_text())
        self.assertEqual(problems, [], "\n" + "\n".join(problems))

    def test_there_are_documents(self):
        self.assertGreater(len(documents()), 50)

    def test_links_resolve(self):
        self.for_each(broken_links)

    def test_named_files_exist(self):
        self.for_each(missing_paths, generated=False)

    def test_words(self):
        self.for_each(forbidden_words, generated=False)

    def test_readme_is_short(self):
        lines = (ROOT / "README.md").read_text().count("\n")
        self.assertLessEqual(lines, MAX_README_LINES)

    def test_decisions_are_listed_and_have_four_parts(self):
        folder = ROOT / "docs/decisions"
        index = (folder / "README.md").read_text()
        for page in sorted(folder.glob("[0-9]*.md")):
            text = page.read_text()
            self.assertIn(f"({page.name})", index)
            self.assertTrue(text.startswith(f"# {int(page.name[:4])}. "), page.name)
            self.assertEqual(re.findall(r"^## (.*)$", text, re.MULTILINE),
                             ["Context", "Decision", "Rejected", "Consequences"], page.name)

    def test_sources_refer_to_documents_that_exist(self):
        problems = []
        for folder in ("engine", "server", "client", "tools", "tests", "proto"):
            for path in (ROOT / folder).rglob("*"):
                if path.suffix not in {".h", ".cc", ".py", ".proto"}:
                    continue
                if path == pathlib.Path(__file__).resolve():
                    continue
                for target in re.findall(r"\bdocs/[\w./-]+\.md\b", path.read_text()):
                    if not (ROOT / target).exists():
                        problems.append(f"{path.relative_to(ROOT)}: {target}: no such file")
        self.assertEqual(problems, [])

    def test_performance_tables_are_those_of_the_records(self):
        run = subprocess.run([sys.executable, ROOT / "tools/performance_summary.py", "--check"],
                             capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_performance_tables_leave_out_schedules_of_files(self):
        row = "| by tiles | {} | 2048 | 512 | {} [1–2] | 9.0 | 50 % |\n"
        head = ("\n## prefill\n\n| | Mode | Depth | Rows | ms | tokens/s | share of floor |\n"
                "|---|---|--:|--:|--:|--:|--:|\n")
        record = ("# a, bf16, bf16 cache\n\nSparse steps: schedule s.json, digest 1.\n" + head
                  + row.format("dense", 11) + row.format("sparse", 22)
                  + "# b, bf16, bf16 cache\n\nSparse steps: synthetic schedule.\n" + head
                  + row.format("sparse", 33))
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "record.md").write_text(record)
            sys.path.insert(0, str(ROOT / "tools"))
            import performance_summary
            runs = performance_summary.runs_of(pathlib.Path(folder) / "record.md")
        self.assertEqual([(run.mode, run.ms) for run in runs], [("dense", 11), ("sparse", 33)])

    def test_tables_of_weight_formats_are_those_of_the_records(self):
        run = subprocess.run([sys.executable, ROOT / "tools/format_tables.py", "--check"],
                             capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_options_exist(self):
        if not PROGRAMS:
            self.skipTest("no programs given")
        server, client, convert = PROGRAMS
        def shown(*command):
            return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
        helps = {"server": shown(server), "client": shown(client), "convert": shown(convert)}
        commands = re.findall(r"^  ([a-z]+) {2,}", helps["client"].split("Subcommands:")[1], re.MULTILINE)
        self.assertGreater(len(commands), 10)
        helps |= {command: shown(client, command) for command in commands}
        known = set(re.findall(r"--[a-z][a-z0-9-]+", " ".join(helps.values())))
        page = (ROOT / "docs/cli.md").read_text()
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page))
        self.assertEqual(sorted(named - known), [])
        for command in commands:
            self.assertRegex(page, rf"\b{command}\b", "every command is documented")


class SelfTest(unittest.TestCase):
    def test_words_are_found_in_prose_only(self):
        self.assertEqual(forbidden_words("x.md", "`--maker dp`\n\n```\nGate on\n```\n"), [])
        self.assertEqual(len(forbidden_words("x.md", "The row\nrule of a maker.")), 2)

    def test_missing_paths_are_found(self):
        self.assertEqual(missing_paths("x.md", "`README.md` `docs/cli.md` `a/b`"), [])
        self.assertEqual(len(missing_paths("x.md", "`docs/nothing.md`")), 1)

    def test_broken_links_are_found(self):
        self.assertEqual(broken_links("x.md", "[a](README.md) [b](https://x.y)"), [])
        self.assertEqual(len(broken_links("x.md", "[a](nothing.md) [b](docs/cli.md#nothing)")), 2)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 5):
        sys.exit(__doc__)
    ROOT = pathlib.Path(sys.argv[1]).resolve()
    PROGRAMS = [str(pathlib.Path(program).resolve()) for program in sys.argv[2:]]
    unittest.main(argv=sys.argv[:1])
