#!/usr/bin/env python3
"""cmake --install into an empty folder: install_test.py CMAKE BUILD_FOLDER VERSION

Every program runs from there and tells its version and the commit of the source tree.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CMAKE, BUILD, VERSION = sys.argv[1:4]
PROGRAMS = ("kascade", "kascade-convert", "kascade-server", "kascade-train")


def commit():
    """The commit of the tree; "unknown" where it is no git work tree of its own."""
    def git(*arguments):
        return subprocess.run(["git", "-C", str(ROOT), "rev-parse", *arguments],
                              capture_output=True, text=True, check=False)
    top = git("--show-prefix")
    if top.returncode != 0 or top.stdout.strip():
        return "unknown"
    return git("--short=7", "HEAD").stdout.strip() or "unknown"


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.prefix = pathlib.Path(folder.name)
        subprocess.run([CMAKE, "--install", BUILD, "--prefix", folder.name], check=True,
                       stdout=subprocess.DEVNULL)

    def test_programs_tell_their_version(self):
        self.assertEqual(sorted(path.name for path in (self.prefix / "bin").iterdir()),
                         list(PROGRAMS))
        for program in PROGRAMS:
            said = subprocess.run([str(self.prefix / "bin" / program), "--version"], check=True,
                                  capture_output=True, text=True).stdout
            found = re.fullmatch(r"kascade (\S+) \(commit (\S+)\)\n", said)
            self.assertTrue(found, said)
            self.assertEqual(found[1], VERSION)
            # A build may be older than a commit that changed no source.
            self.assertRegex(found[2], r"^([0-9a-f]{7,}|unknown)$")
            self.assertEqual(found[2] == "unknown", commit() == "unknown")

    def test_protos_licence_and_documents(self):
        share = self.prefix / "share"
        protos = sorted(path.name for path in (ROOT / "proto" / "kascade" / "v1").glob("*.proto"))
        installed = sorted((share / "kascade" / "proto" / "kascade" / "v1").iterdir())
        self.assertEqual([path.name for path in installed], protos)
        documents, = (share / "doc").iterdir()
        self.assertEqual((documents / "LICENSE").read_text(), (ROOT / "LICENSE").read_text())
        self.assertTrue((documents / "docs" / "performance.md").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
