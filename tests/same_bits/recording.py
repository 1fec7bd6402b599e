"""The text that results are recorded in, and the comparison of two of them.

    [demo cpu f32, probe: dense, whole]
    logits ! 6f1c…
    logprobs ~ -0x1.2p+1 …
    keys chosen = 120

One block a case. The sign behind a key says when two builds must agree on its value:
  =  on every processor: tokens, choices of keys, counts;
  ~  on every processor to within a tolerance: floating-point numbers that come from exp, sin and
     other functions of the C library, which differ in the last bit between processors;
  !  on the same processor only, and then in every bit: digests and sums of such numbers.
Numbers are written by float.hex, so that equal text means equal bits.
"""

import sys

import numpy as np

VALUES_PER_LINE = 8
MOST_DIFFERENCES = 8  # that are printed of one case


def hexadecimal(value):
    """All bits of a number as text."""
    return float(value).hex()


class Recording:
    """Collects cases. A portable recording leaves out what depends on the processor ("!")."""

    def __init__(self, portable=False):
        self.portable = portable
        self.lines = []

    def case(self, name):
        self.lines += ["", f"[{name}]"]

    def exact(self, key, value):
        self._put(key, "=", value)

    def near(self, key, numbers):
        self._put(key, "~", [hexadecimal(number) for number in np.atleast_1d(numbers)])

    def bits(self, key, value):
        if not self.portable:
            self._put(key, "!", value)

    def text(self):
        return "\n".join(self.lines) + "\n"

    def _put(self, key, sign, value):
        """A list goes on in indented lines, so that diff shows the part that changed."""
        words = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        words = [word.replace("\n", "\\n") for word in words]
        rows = [" ".join(words[i:i + VALUES_PER_LINE])
                for i in range(0, len(words), VALUES_PER_LINE)] or [""]
        self.lines.append(f"{key} {sign} {rows[0]}".rstrip())
        self.lines += ["    " + row for row in rows[1:]]


def parse(text):
    """{case: {key: (sign, value)}}, in the order of the text."""
    cases, fields, key = {}, None, None
    for line in text.splitlines():
        if line.startswith("["):
            fields = cases.setdefault(line[1:-1], {})
        elif line.startswith("    "):
            sign, value = fields[key]
            fields[key] = sign, f"{value} {line.strip()}"
        elif line and not line.startswith("#"):
            signs = [line.find(f" {sign}") for sign in "=~!"]
            at = min(place for place in signs if place >= 0)
            key = line[:at]
            fields[key] = line[at + 1], line[at + 2:].strip()
    return cases


def first_difference(sign, old, new, tolerance):
    """What differs between two values of a key; None if nothing does."""
    if old == new:
        return None
    olds, news = old.split(), new.split()
    if len(olds) != len(news):
        return f"{len(olds)} values, now {len(news)}"
    for index, (a, b) in enumerate(zip(olds, news)):
        if a == b:
            continue
        if sign != "~":
            return f"value {index} of {len(olds)}: {a}, now {b}"
        distance = abs(float.fromhex(a) - float.fromhex(b))
        if not distance <= tolerance:  # NaN differs from everything
            return f"value {index} of {len(olds)}: {a}, now {b} ({distance:.2g} apart)"
    return None


def differences(old_text, new_text, tolerance=0.0):
    """({case: [what differs]}, number of cases) of two recordings."""
    old, new = parse(old_text), parse(new_text)
    found = {}
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new:
            found[name] = ["this case is only in the " + ("old" if name in old else "new") + " one"]
            continue
        for key in [*old[name], *(key for key in new[name] if key not in old[name])]:
            if key not in old[name] or key not in new[name]:
                where = "old" if key in old[name] else "new"
                found.setdefault(name, []).append(f"{key}: only in the {where} one")
                continue
            (sign, a), (_, b) = old[name][key], new[name][key]
            what = first_difference(sign, a, b, tolerance)
            if what is not None:
                found.setdefault(name, []).append(f"{key}: {what}")
    return found, len(old)


def print_differences(found, most_cases=20):
    for name in list(found)[:most_cases]:
        print(f"differs: {name}")
        for what in found[name][:MOST_DIFFERENCES]:
            print(f"    {what}")
    if len(found) > most_cases:
        print(f"… and {len(found) - most_cases} cases more")


def main(arguments):
    """recording.py OLD NEW: compares two recordings of the same processor, bit by bit."""
    if len(arguments) != 2:
        sys.exit(main.__doc__)
    old, new = (open(path, encoding="utf-8").read() for path in arguments)
    found, count = differences(old, new)
    if found or not count:
        print_differences(found)
        sys.exit(f"{len(found)} of {count} cases differ")
    print(f"same bits: {count} cases")


if __name__ == "__main__":
    main(sys.argv[1:])
