#!/usr/bin/env python3
"""Checks which model ./run quality measures and where its report goes: run_quality_test.py ROOT

The functions that compile, serve and measure are replaced by ones that print what they were given.
"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = None
REPLACED = """
install_missing() { :; }
compile() { :; }
start_server() { echo "served $1"; }
stop_server() { :; }
kascade() { echo "kascade $*"; }
kascade=kascade
KASCADE_SHARED_DATA=/nonexistent
"""


class RunQuality(unittest.TestCase):
    def quality(self, *arguments, folder=None):
        """(exit status, output, error output) of ./run quality, called in `folder`."""
        script = f'set -- help; source "{ROOT}/run" >/dev/null; {REPLACED}\nrun_quality "${{given[@]}}"'
        done = subprocess.run(["bash", "-c", f'given=("$@"); {script}', "bash", *arguments],
                              cwd=folder or ROOT, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def test_bundled_model_by_default(self):
        code, out, err = self.quality("--cases", "5")
        self.assertEqual(code, 0, err)
        self.assertIn("served models/demo\n", out)
        self.assertRegex(out, r"kascade eval --suite quality .* --out docs/quality --cases 5\n")

    def test_another_model_has_a_folder_of_its_own(self):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder).resolve() / "some-model"
            model.mkdir()
            code, out, err = self.quality("--model", "some-model", "--groups", "kascade",
                                          folder=folder)
            self.assertEqual(code, 0, err)
            self.assertIn(f"served {model}\n", out)
            self.assertIn(" --out build/quality/some-model --groups kascade\n", out)

    def test_out_names_the_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "some-model").mkdir()
            report = pathlib.Path(folder).resolve() / "reports/one"
            for arguments in (("--model", "some-model", "--out", "reports/one"),
                              ("--out", "reports/one", "--model", "some-model")):
                code, out, err = self.quality(*arguments, folder=folder)
                self.assertEqual(code, 0, err)
                self.assertIn(f" --out {report}\n", out)
            code, out, err = self.quality("--out", "reports/one", folder=folder)
            self.assertIn("served models/demo\n", out)
            self.assertIn(f" --out {report}\n", out)

    def test_refusals(self):
        for arguments, words in ((("--model", "missing"), "--model: no such folder: missing"),
                                 (("--model",), "--model: needs the folder"),
                                 (("--out",), "--out: needs a folder")):
            code, out, err = self.quality(*arguments)
            self.assertEqual(code, 1, out)
            self.assertIn(words, err)
            self.assertNotIn("served", out)


if __name__ == "__main__":
    ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
