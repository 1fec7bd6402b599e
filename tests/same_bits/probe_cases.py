"""Cases that engine_probe runs: all logits and every choice of keys of one forward pass."""

import hashlib
import json
import pathlib
import subprocess

import numpy as np

import schedules

PROBE_SECONDS = 900
LOGPROB_STEP = 8  # of each eighth token the log-probability is recorded; the digest has the rest


def runs_of(length):
    """{name: what engine_probe is told beside the tokens and the files}."""
    rows = length - length // 8  # from here on each row decides for itself, as in decoding
    whole = {"tile_rule_end": length, "mode": "sparse"}
    runs = {
        "dense, whole": {**whole, "mode": "dense"},
        "dense, chunks of 100": {**whole, "mode": "dense", "chunk": 100},
        "keys, whole": {**whole, "rule": "keys"},
        "keys, chunks of 96": {**whole, "rule": "keys", "chunk": 96},
        "keys, last rows decode": {**whole, "rule": "keys", "tile_rule_end": rows},
        "keys, all rows decode": {**whole, "rule": "keys", "tile_rule_end": 0},
        "keys, ratio 0.3": {**whole, "rule": "keys", "ratio": 0.3},
        "other keys, whole": {**whole, "rule": "other keys"},
        "other keys, last rows decode": {**whole, "rule": "other keys", "tile_rule_end": rows},
        "tiles, whole": {**whole, "rule": "tiles"},
        "tiles, chunks of 100": {**whole, "rule": "tiles", "chunk": 100},
        "tiles, last rows decode": {**whole, "rule": "tiles", "tile_rule_end": rows},
        "other tiles, last rows decode": {**whole, "rule": "other tiles", "tile_rule_end": rows},
    }
    for name, settings in schedules.BASELINES.items():
        runs[f"{name}, whole"] = {**whole, "baseline": settings}
        runs[f"{name}, last rows decode"] = {**whole, "baseline": settings, "tile_rule_end": rows,
                                             "chunk": 100}
    return runs


# What the portable recording keeps: reference loops are slow, and one run tells of each mode.
PORTABLE_RUNS = {
    "f32": ["dense, whole", "keys, whole", "keys, ratio 0.3", "keys, last rows decode",
            "other keys, last rows decode", "tiles, last rows decode",
            "other tiles, last rows decode", "other oracle, whole", "other streaming, whole",
            "other quest, last rows decode"],
    "int8": ["keys, last rows decode"],
    "int4": ["keys, last rows decode"],
}


def write_schedules(model, folder):
    config = json.loads((model.folder / "config.json").read_text())
    shape = config["num_hidden_layers"], config["num_key_value_heads"]
    for name, rule in schedules.RULES.items():
        (folder / f"{name}.json").write_text(json.dumps(schedules.schedule(rule, *shape)))


def request(folder, name, run, tokens):
    """What engine_probe reads of one run."""
    return {"tokens": tokens, "ratio": None, "chunk": 0, "baseline": None, **run,
            "schedule": str(folder / f"{run['rule']}.json") if "rule" in run else None,
            "logits": str(folder / f"{name}.f32"),
            "selections": None if run["mode"] == "dense" else str(folder / f"{name}.jsonl")}


def log_softmax(logits):
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def record_logits(path, tokens, recording):
    data = path.read_bytes()
    path.unlink()
    recording.bits("logits", hashlib.sha256(data).hexdigest())
    logits = np.frombuffer(data, "<f4").reshape(len(tokens), -1)
    rows = np.arange(0, len(tokens) - 1, LOGPROB_STEP)
    logprobs = log_softmax(logits[rows])[np.arange(len(rows)), np.array(tokens)[rows + 1]]
    recording.near("logprobs", logprobs.astype(np.float32))
    recording.exact("most likely tokens", logits[rows].argmax(axis=1).tolist())


def record_selections(path, recording):
    """A digest for each layer, so that a difference tells where it begins."""
    layers, keys = {}, 0
    fields = ("first_row", "rows", "candidates_begin", "candidates_end", "indices")
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        keys += sum(map(len, entry["indices"]))
        layers.setdefault(entry["layer"], []).append([entry[field] for field in fields])
    path.unlink()
    recording.exact("choices", sum(map(len, layers.values())))
    recording.exact("keys chosen", keys)
    for layer, entries in sorted(layers.items()):
        digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
        recording.exact(f"choices of layer {layer}", digest)


def record(binary, model, backend, weights, tokens, recording, folder):
    """All runs on one model by one backend with one kind of weights. `model` has name and folder;
    `folder` is empty."""
    runs = runs_of(len(tokens))
    if recording.portable:
        runs = {name: runs[name] for name in PORTABLE_RUNS[weights]}
    write_schedules(model, folder)
    requests = [request(folder, name, run, tokens) for name, run in runs.items()]
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"model": str(model.folder), "backend": backend, "weights": weights,
                                "threads": 2, "max_batch_tokens": 1024, "runs": requests}))
    done = subprocess.run([binary, spec], capture_output=True, text=True, timeout=PROBE_SECONDS)
    title = f"{model.name} {backend} {weights}, probe"
    if done.returncode != 0:
        if "UNAVAILABLE" not in done.stderr:
            raise RuntimeError(f"engine_probe ended with {done.returncode}: {done.stderr}")
        print(f"skipped: {title}: {done.stderr.strip()}", flush=True)
        recording.case(title)
        recording.exact("skipped", "this processor cannot run it")
        return
    for name, run in zip(runs, requests):
        recording.case(f"{title}: {name}")
        record_logits(pathlib.Path(run["logits"]), tokens, recording)
        if run["selections"]:
            record_selections(pathlib.Path(run["selections"]), recording)
