#!/usr/bin/env python3
"""Peak anonymous memory of a conversion: peak_memory.py KASCADE_CONVERT SOURCE DEST [options]

Bound: 2 × the largest tensor + 200 MB. Mapped pages of the source are file-backed and not counted;
the kernel drops them as it likes.
"""

import pathlib
import re
import subprocess
import sys
import time


def resident(pid):
    """(anonymous, total) in kB; the process may be gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0, 0
    values = dict(re.findall(r"(RssAnon|VmRSS):\s+(\d+) kB", status))
    return int(values.get("RssAnon", 0)), int(values.get("VmRSS", 0))


def main():
    begin = time.monotonic()
    process = subprocess.Popen(sys.argv[1:])
    anonymous = total = 0
    while process.poll() is None:
        now = resident(process.pid)
        anonymous, total = max(anonymous, now[0]), max(total, now[1])
        time.sleep(0.01)
    print(f"exit {process.returncode}, {time.monotonic() - begin:.1f} s, peak anonymous "
          f"{anonymous / 1024:.0f} MiB, peak with mapped pages {total / 1024:.0f} MiB")
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
