#!/usr/bin/env python3
"""Writes helm/kascade-serve/README.md from the comments of the chart's values.yaml.

Usage: chart_readme.py [--check]; --check only compares. A comment `# -- Text` describes the key below it,
`# === Title` begins a section.
"""

import json
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path(__file__).resolve().parents[1] / "helm" / "kascade-serve"

HEAD = """\
# kascade-serve

{description} The servers run in a Deployment or a StatefulSet, and with the values below in whatever
your cluster has for networking, scaling and monitoring. [docs/deployment.md](../../docs/deployment.md) tells
how to build the image, choose sizes and calibrate in a cluster.

```
helm install demo helm/kascade-serve --set image.repository=REGISTRY/kascade-serve
helm test demo
```

serves the small model of the image. No value holds a secret: certificates and tokens come from Secrets that you
make. Values that the chart does not know are refused.

Kubernetes {kubernetes}. This page is made from the comments of `values.yaml` by `tools/chart_readme.py`.
"""


def described_values(text):
    """[(section, path, comment)] in the order of the file."""
    section, stack, comment, found = "Names", [], [], []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# === "):
            section = stripped[6:]
        elif stripped.startswith("# -- "):
            comment = [stripped[5:]]
        elif stripped.startswith("#"):
            if comment:
                comment.append(stripped.lstrip("# "))
        elif key := re.match(r"( *)([\w.-]+):", line):
            depth = len(key[1]) // 2
            stack = stack[:depth] + [key[2]]
            if comment:
                found.append((section, tuple(stack), " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def undescribed(values, described, path=()):
    """Paths of values that neither have a comment nor lie below one that has."""
    if path in described:
        return []
    if not isinstance(values, dict) or not values:
        return [".".join(path)]
    return [name for key, value in values.items() for name in undescribed(value, described, path + (key,))]


def page(chart, text):
    values, rows = yaml.safe_load(text), described_values(text)
    missing = undescribed(values, {path for _, path, _ in rows})
    if missing:
        sys.exit(f"values.yaml: no comment `# -- …` for {', '.join(missing)}")
    lines, last = [HEAD.format(description=chart["description"], kubernetes=chart["kubeVersion"].removesuffix("-0"))], None
    for section, path, comment in rows:
        if section != last:
            lines.append(f"\n## {section}\n\n| Value | Default | Meaning |\n|---|---|---|\n")
            last = section
        default = values
        for key in path:
            default = default[key]
        shown = json.dumps(default, ensure_ascii=False).replace("|", "\\|")
        lines.append(f"| `{'.'.join(path)}` | `{shown}` | {comment.replace('|', chr(92) + '|')} |\n")
    return "".join(lines)


def main():
    made = page(yaml.safe_load((CHART / "Chart.yaml").read_text()), (CHART / "values.yaml").read_text())
    file = CHART / "README.md"
    if sys.argv[1:] == ["--check"]:
        if not file.exists() or file.read_text() != made:
            sys.exit(f"{file}: not what values.yaml says; run tools/chart_readme.py")
    elif len(sys.argv) == 1:
        file.write_text(made)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
