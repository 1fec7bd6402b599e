"""What a soak reads of the server while it runs, and what follows from it: memory, threads, descriptors,
metrics, and the trend of a figure over time."""

import dataclasses
import math
import os
import pathlib
import re
import urllib.request

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclasses.dataclass
class Process:
    """A process at one moment; memory in KiB."""
    resident: int
    anonymous: int  # the part that is no file
    threads: int
    descriptors: int


def process(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\s+(\d+)", status, re.MULTILINE))
    return Process(int(fields["VmRSS"]), int(fields["RssAnon"]), int(fields["Threads"]),
                   len(os.listdir(f"/proc/{pid}/fd")))


class Metrics:
    """A scrape."""

    def __init__(self, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        self.samples = {}
        for line in text.splitlines():
            if found := _SAMPLE.match(line):
                name, labels, value = found.groups()
                self.samples[name, frozenset(_LABEL.findall(labels or ""))] = float(value)

    def value(self, name):
        """Of a metric without labels."""
        return self.samples[name, frozenset()]

    def total(self, name):
        """Over all labels."""
        return sum(value for (found, _), value in self.samples.items() if found == name)

    def calls(self):
        """{(rpc, code): calls that ended}."""
        counted = {}
        for (name, labels), value in self.samples.items():
            if name == "kascade_rpc_requests_total":
                labels = dict(labels)
                counted[labels["rpc"], labels["code"]] = int(value)
        return counted

    def is_idle(self):
        return (self.value("kascade_rpc_in_flight") == 0 and
                self.value("kascade_requests_running") == 0 and
                self.total("kascade_requests_waiting") == 0 and
                self.value("kascade_calibration_progress_ratio") == 0)


@dataclasses.dataclass
class Trend:
    """A straight line through points, by least squares."""
    slope: float
    standard_error: float  # of the slope


def trend(times, values):
    """Of at least three points at different times."""
    count = len(times)
    mean_time, mean_value = sum(times) / count, sum(values) / count
    spread = sum((time - mean_time) ** 2 for time in times)
    slope = sum((time - mean_time) * (value - mean_value)
                for time, value in zip(times, values)) / spread
    residuals = sum((value - mean_value - slope * (time - mean_time)) ** 2
                    for time, value in zip(times, values))
    return Trend(slope, math.sqrt(residuals / (count - 2) / spread))


def means(times, values, span):
    """The mean time and value of each whole span: neighbouring readings are not independent, the
    means of long spans nearly are, so that the standard error of their trend means something."""
    groups = {}
    for time, value in zip(times, values):
        groups.setdefault(int((time - times[0]) // span), []).append((time, value))
    whole = [group for key, group in sorted(groups.items()) if (key + 1) * span <= times[-1] - times[0]]
    return ([sum(time for time, _ in group) / len(group) for group in whole],
            [sum(value for _, value in group) / len(group) for group in whole])


def percentile(values, share):
    """The smallest value that is not exceeded by at least this share of the values; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
