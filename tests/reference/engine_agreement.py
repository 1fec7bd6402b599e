"""Agreement of the engine with the float64 reference: engine_agreement.py ENGINE_PROBE [FILTER].

Runs engine_probe on real and random models, on both backends, and judges every selection and all
logits. Ends with 0 when all agree, 1 when not, 77 when data is absent that only some runs need.
FILTER: only jobs whose title contains it.
"""

import json
import os
import pathlib
import sys
import tempfile
import time
from dataclasses import dataclass, field

import numpy as np

import agreement_cases as cases
from judge import (INTEGERS, INTEGERS_IN_BF16, Tolerance, judge_first_rows, judge_run,
                   tolerance_of)
from kascade import Layer, Rule, Schedule
from llama import Model, continued, forward, log_softmax
from probe import Disagreement, Probe, Run
from quantized import QuantizedModel
from random_model import write_model
from rounding import BF16_UNIT, F32_UNIT, effect
from test_oracle import PASS_KEY

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo"
SHARED = pathlib.Path(os.environ.get("KASCADE_SHARED_DATA", ROOT.parent / "shared" / "data"))
STORIES = SHARED / "models" / "tinystories-656k"
GREEDY_TOKENS, TEXT_TOKENS = 64, 480
ROUNDED_TOKENS = 640  # that the tolerances follow from
SKIPPED = 77


@dataclass
class Subject:
    """A model with its streams of tokens, and the reference's dense logits of them."""

    folder: pathlib.Path
    streams: dict
    model: Model = None
    dense_logits: dict = field(default_factory=dict)  # stream -> [longest so far, V]
    judged: dict = field(default_factory=dict)  # see judge_run
    tolerances: dict = field(default_factory=dict)  # (stream, unit) -> Tolerance

    def __post_init__(self):
        if self.model is None:
            self.model = Model(self.folder)

    def dense(self, stream, length):
        known = self.dense_logits.get(stream)
        if known is None or len(known) < length:
            known = forward(self.model, self.streams[stream][:length], self.model.over_cache())
            self.dense_logits[stream] = known
        return known[:length]


    def tolerance(self, stream, unit):
        """From the begin of the stream; rounding does as much to the rest."""
        if (stream, unit) not in self.tolerances:
            tokens = self.streams[stream][:ROUNDED_TOKENS]
            self.tolerances[stream, unit] = tolerance_of(effect(self.model, tokens, unit))
        return self.tolerances[stream, unit]


@dataclass
class Job:
    title: str
    subject: Subject
    runs: list
    backend: str
    weights: str = "f32"
    tolerance: Tolerance | None = None  # None: what rounding to `unit` allows
    cache: str = "auto"
    unit: float = F32_UNIT  # relative error of a value that the engine stores

    def allowed(self, run):
        return self.tolerance or self.subject.tolerance(run.stream, self.unit)


def random_jobs(folder):
    """Both backends on every random model."""
    groups = {"lengths": (cases.WIDE, cases.length_runs()),
              "rules": (cases.WIDE, cases.rule_runs()),
              "nearby": (cases.WIDE, cases.nearby_runs()), "ties": (cases.TIES, cases.tie_runs())}
    for name, spec in cases.SHAPES.items():
        groups[name] = (spec, cases.shape_runs(spec))
    streams, subjects = cases.streams(), {}
    for name, (spec, runs) in groups.items():
        if spec not in subjects:
            path = write_model(folder / f"model{len(subjects)}", spec)
            subjects[spec] = Subject(path, streams)
        for backend in ("reference", "cpu"):
            yield Job(f"{name}, {backend}", subjects[spec], runs, backend)


def integer_jobs(folder):
    """int8 and int4 weights, and an int8 cache, against a float64 model that rounds as they do."""
    streams = {**cases.streams(), **cases.starts()}
    path = write_model(folder / "integers", cases.INTEGERS)
    for weights, cache in (("int8", "f32"), ("int4", "f32"), ("f32", "int8"), ("int8", "int8")):
        subject = Subject(path, streams, QuantizedModel(path, weights, cache))
        for backend in ("reference", "cpu"):
            in_bf16 = backend == "cpu" and cache == "int8"
            yield Job(f"{weights} weights, {cache} cache, {backend}", subject, cases.integer_runs(),
                      backend, weights, INTEGERS_IN_BF16 if in_bf16 else INTEGERS, cache)


def real_streams(folder, prompt, length):
    """"greedy": a prompt and its continuation; "mixed": the prompt between random tokens; "text":
    what the model says after the prompt, drawn at temperature 1.
    """
    model, rng = Model(folder), np.random.default_rng(8)
    vocabulary = model.config.vocab

    def draw(logits):
        return rng.choice(vocabulary, p=np.exp(log_softmax(logits)))

    parts = []
    while sum(map(len, parts)) < length:
        parts += [list(prompt), rng.integers(3, vocabulary, rng.integers(20, 120)).tolist()]
    return {
        "greedy": np.array(continued(model, prompt, GREEDY_TOKENS)),
        "mixed": np.concatenate(parts)[:length],
        "text": np.array(continued(model, prompt, TEXT_TOKENS, draw)),
    }


def demo_schedule(rule):
    """Four selecting layers of all."""
    plan, same = [], (0, 1)
    for layer in range(json.loads((DEMO / "config.json").read_text())["num_hidden_layers"]):
        anchor = max(a for a in (0, 2, 5, 8) if a <= layer)
        if layer == anchor:
            plan.append(Layer("anchor" if layer else "dense", layer, same))
        else:
            plan.append(Layer("reuse", anchor, ((1, 0), (0, 0), (1, 1))[layer % 3]))
    return Schedule(rule, tuple(plan))


def demo_jobs():
    prompt = len(PASS_KEY)
    subject = Subject(DEMO, real_streams(DEMO, PASS_KEY, 900))
    keys, tiles = demo_schedule(Rule(min_keys=32)), demo_schedule(
        Rule(family="tile", query_tile=16, top_k=4))
    runs = [Run("greedy", prompt + GREEDY_TOKENS, greedy_from=prompt - 1), Run("mixed", 1),
            Run("mixed", 900), Run("mixed", 900, keys, 700, chunk=200, drops=True),
            Run("mixed", 500, tiles, 450, drops=True)]
    for backend in ("reference", "cpu"):
        yield Job(f"demo, {backend}", subject, runs, backend)
    if "avx512_bf16" not in pathlib.Path("/proc/cpuinfo").read_text():
        print("demo, cpu bf16: left out, this processor has no bf16 instructions", flush=True)
        return
    length = prompt + TEXT_TOKENS
    runs = [Run("text", 1), Run("text", length), Run("text", length, keys, 400, drops=True),
            Run("text", length, tiles, 400, chunk=200, drops=True)]
    yield Job("demo, cpu bf16", subject, runs, "cpu", "bf16",
              unit=BF16_UNIT)


def stories_jobs():
    first = (1,)
    subject = Subject(STORIES, real_streams(STORIES, first, 512))
    same = tuple(range(4))
    schedule = Schedule(Rule(min_keys=16), (Layer("dense", 0, same), Layer("reuse", 0, same[::-1])))
    runs = [Run("greedy", 1 + GREEDY_TOKENS, greedy_from=0), Run("mixed", 512),
            Run("mixed", 512, schedule, 450, drops=True)]
    for backend in ("reference", "cpu"):
        yield Job(f"tinystories, {backend}", subject, runs, backend)


def all_jobs(folder):
    yield from random_jobs(folder)
    yield from integer_jobs(folder)
    yield from demo_jobs()
    if STORIES.exists():
        yield from stories_jobs()


def judge_results(job, results):
    """Prints one line for the job and one for each run that disagrees; returns their number."""
    verdicts, failed, begin = [], 0, time.monotonic()
    for run in job.runs:
        try:
            result = next(results)
            tokens = job.subject.streams[run.stream]
            dense = job.subject.dense(run.stream, run.length)
            verdicts.append(judge_run(job.subject.model, run, result, tokens, dense,
                                      job.allowed(run), job.subject.judged))
        except Disagreement as error:
            failed += 1
            print(f"FAIL {job.title}: {run}: {error}")
    try:
        judge_first_rows(verdicts, job.allowed(job.runs[0]))
    except Disagreement as error:
        failed += 1
        print(f"FAIL {job.title}: {error}")
    worst = [max((getattr(v, name) for v in verdicts), default=0.0)
             for name in ("logits", "kl", "score")]
    recall = min((v.recall for v in verdicts), default=1.0)
    allowed = [job.allowed(run) for run in job.runs]
    most = [min(getattr(tolerance, name) for tolerance in allowed)
            for name in ("logits", "kl", "score")]
    print(f"{job.title}: {len(verdicts)} of {len(job.runs)} runs agree; logits {worst[0]:.1e} "
          f"(≤ {most[0]:.1e}), KL {worst[1]:.1e} (≤ {most[1]:.1e}), "
          f"{sum(v.choices for v in verdicts)} choices, beyond threshold {worst[2]:.1e} "
          f"(≤ {most[2]:.1e}), recall {recall:.6f} "
          f"(≥ {max(tolerance.recall for tolerance in allowed):.6f}) "
          f"({time.monotonic() - begin:.0f} s)", flush=True)
    return failed


def judge_job(job, probe, started):
    try:
        return judge_results(job, probe.finish(started))
    except Disagreement as error:
        print(f"FAIL {job.title}: {error}", flush=True)
        return 1


def run_all(binary, wanted, folder):
    """Judges one job while the engine runs the next; returns (disagreements, jobs)."""
    failed, count, waiting = 0, 0, None
    for job in all_jobs(folder):
        if wanted not in job.title:
            continue
        probe = Probe(binary, folder / f"job{count}", job.backend, job.weights, job.cache)
        started = probe.start(job.subject.folder, job.runs, job.subject.streams)
        if waiting is not None:
            failed += judge_job(*waiting)
        waiting, count = (job, probe, started), count + 1
    if waiting is not None:
        failed += judge_job(*waiting)
    return failed, count


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    wanted = arguments[1] if len(arguments) > 1 else ""
    with tempfile.TemporaryDirectory() as folder:
        failed, count = run_all(arguments[0], wanted, pathlib.Path(folder))
    if failed or not count:
        sys.exit(f"{failed} disagreements in {count} jobs")
    if not STORIES.exists():
        print(f"test data absent: {STORIES} (set KASCADE_SHARED_DATA); the other jobs agree")
        sys.exit(1 if os.environ.get("KASCADE_REQUIRE_DATA") == "1" else SKIPPED)


if __name__ == "__main__":
    main(sys.argv[1:])
