"""Drives engine_probe: writes what it shall run, reads back logits and selections.

engine_probe takes one JSON file: model, backend, weights, threads, max_batch_tokens and a list of
runs. For each run it writes the logits of all rows (f32 [tokens, vocabulary]) and, as JSON lines,
one object for every (layer, group of rows) that chose keys.
"""

import json
import pathlib
import subprocess
from dataclasses import dataclass

import numpy as np

from kascade import Schedule, unit_of
from nearby import Nearby

PROBE_SECONDS = 900


class Disagreement(Exception):
    """The engine did something that the specification does not allow."""


@dataclass(frozen=True)
class Run:
    """One sequence. `stream` names its tokens: the first `length` of that stream."""

    stream: str
    length: int
    schedule: Schedule | None = None  # None: dense, or by `nearby`
    tile_rule_end: int | None = None  # None: length
    ratio: float | None = None
    chunk: int = 0
    drops: bool = False  # candidates must be dropped, and the output must differ from dense
    greedy_from: int | None = None  # from this row on the tokens are the greedy continuation
    note: str = ""
    nearby: Nearby | None = None  # in place of a schedule

    @property
    def end(self):
        return self.length if self.tile_rule_end is None else self.tile_rule_end

    def __str__(self):
        kind = str(self.nearby or "dense") if self.schedule is None else self.schedule.rule.family
        parts = [f"{self.stream}[{self.length}]", kind, self.note]
        parts += [f"rows from {self.end}"] if self.end < self.length else []
        parts += [f"chunk {self.chunk}"] if self.chunk else []
        parts += [f"ratio {self.ratio}"] if self.ratio is not None else []
        return " ".join(part for part in parts if part)


@dataclass
class Result:
    logits: np.ndarray  # f32 [length, vocabulary]
    selections: dict  # (layer, first row) -> object of the JSON line


def schedule_json(schedule):
    """The schedule file of the engine, with empty digests."""
    rule = schedule.rule
    selection = {
        "family": rule.family,
        "query_tile": rule.query_tile,
        "unit": unit_of(rule),
        "ratio": rule.ratio,
        "top_k": rule.top_k,
        "min_keys": rule.min_keys,
        "pooling": "max" if rule.family == "tile" else rule.pooling,
        "decode_own_tile": rule.decode_own_tile,
        "sink_keys": rule.sink_keys,
    }
    if rule.all_heads:
        selection["all_heads"] = True
    layers = [{"role": layer.role, "anchor": layer.anchor, "head_map": list(layer.head_map),
               "similarity": 1.0, "importance": 0.5, "reason": "test"}
              for layer in schedule.layers]
    empty = ("name", "weights_digest", "config_digest", "tokenizer_digest")
    return {
        "format_version": 1,
        "schedule_id": "",
        "model": {name: "" for name in empty},
        "created_at": "2026-01-01T00:00:00Z",
        "calibration": {"maker": "dp", "data_digest": "", "held_out_digest": "", "windows": 0,
                        "window_tokens": 0, "tokens": 0, "duration_seconds": 0.0,
                        "threshold": 0.0, "max_reuse_dist": 0},
        "selection": selection,
        "layers": layers,
        "quality": {"phase": "row", "protocol": "", "tokens": 0, "dense_perplexity": 0.0,
                    "sparse_perplexity": 0.0, "degradation_percent": 0.0, "mean_kl": 0.0,
                    "same_top1": 0.0, "keys_attended_ratio": 0.0, "keys_scored_ratio": 0.0,
                    "max_degradation_percent": 1.0, "suspect": False, "passed": True},
    }


class Probe:
    """engine_probe with one model, backend and weight format."""

    def __init__(self, binary, folder, backend, weights="f32", cache="auto", max_batch_tokens=512):
        self.binary, self.folder = str(binary), pathlib.Path(folder)
        self.settings = {"backend": backend, "weights": weights, "kv_cache_dtype": cache,
                         "threads": 2, "max_batch_tokens": max_batch_tokens}
        self.schedules = {}  # Schedule -> file

    def schedule_file(self, schedule):
        if schedule is None:
            return None
        if schedule not in self.schedules:
            path = self.folder / f"schedule{len(self.schedules)}.json"
            path.write_text(json.dumps(schedule_json(schedule), indent=1))
            self.schedules[schedule] = str(path)
        return self.schedules[schedule]

    def request(self, number, run, tokens):
        sparse = run.schedule is not None or run.nearby is not None
        return {
            "tokens": [int(token) for token in tokens[:run.length]],
            "tile_rule_end": run.end,
            "mode": "sparse" if sparse else "dense",
            "schedule": self.schedule_file(run.schedule),
            "ratio": run.ratio,
            "baseline": run.nearby.baseline() if run.nearby is not None else None,
            "chunk": run.chunk,
            "logits": str(self.folder / f"logits{number}.f32"),
            "selections": str(self.folder / f"selections{number}.jsonl") if sparse else None,
        }

    def start(self, model, runs, streams):
        """Starts the probe on all runs; returns what `finish` takes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        requests = [self.request(i, run, streams[run.stream]) for i, run in enumerate(runs)]
        job = self.folder / "job.json"
        job.write_text(json.dumps({"model": str(model), **self.settings, "runs": requests}))
        process = subprocess.Popen([self.binary, str(job)], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        return process, requests

    def finish(self, started):
        """Waits; a generator of the results in order. Each result's files are removed once read."""
        process, requests = started
        try:
            output, _ = process.communicate(timeout=PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Disagreement(f"engine_probe took more than {PROBE_SECONDS} s") from None
        if process.returncode != 0:
            raise Disagreement(f"engine_probe ended with {process.returncode}: {output[-2000:]}")
        return (read_result(request) for request in requests)


def read_result(request):
    logits = np.fromfile(request["logits"], "<f4")
    count = len(request["tokens"])
    if logits.size == 0 or logits.size % count:
        raise Disagreement(f"{logits.size} logits for {count} tokens")
    pathlib.Path(request["logits"]).unlink()
    selections = {}
    if request["selections"] is not None:
        with open(request["selections"]) as lines:
            for line in lines:
                entry = json.loads(line)
                key = entry["layer"], entry["first_row"]
                if key in selections:
                    raise Disagreement(f"layer {key[0]} chose twice for row {key[1]}")
                selections[key] = entry
        pathlib.Path(request["selections"]).unlink()
    return Result(logits.reshape(count, -1), selections)
