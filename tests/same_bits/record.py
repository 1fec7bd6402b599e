#!/usr/bin/python3
"""Records the results of one build in a text file, so that two builds can be compared bit by bit.

    tests/same_bits/record.py --engine-probe FILE --kascade-server FILE --protos DIR --out FILE
                              [--kascade-convert FILE --llama2c FILE] [--reference-only]

Runs the same cases in the same order with any build: through engine_probe, whose JSON interface
tests/support/engine_probe.cc describes, and through the gRPC interface of kascade-server, whose
protos are those of the build's own source tree. recording.py compares two such files; `./run
same-bits OLD_COMMIT` builds, records and compares.

--reference-only takes models/demo on the plain backend only and leaves out what depends on the
processor; tests/golden/same_bits/reference.txt is such a file:

    tests/same_bits/record.py --reference-only --out tests/golden/same_bits/reference.txt …
"""

import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import probe_cases
import wire
import wire_cases
import wire_records
from recording import Recording

ROOT = pathlib.Path(__file__).resolve().parents[2]
JOBS_AT_A_TIME = 2
STORY = ("Once upon a time, there was a little girl named Lily. She loved to play outside in the "
         "park. One day, she saw a big, red ball. She wanted to play with it, but it was high. ")


@dataclass
class Model:
    name: str
    folder: pathlib.Path
    text: str
    tokens: list = None


@dataclass(frozen=True)
class Setup:
    """How a model is served. `extent` says which cases: see the functions EXTENTS."""

    model: Model
    backend: str
    weights: str
    extent: str
    cache: str = "auto"
    tokens: int = 400
    flags: tuple = ("--max-batch-tokens", "1024", "--max-sequences", "8")

    @property
    def title(self):
        cache = "" if self.cache == "auto" else f", {self.cache} cache"
        return f"{self.model.name} {self.backend} {self.weights}{cache}, {self.extent}"


def whole_cases(cases, setup, info):
    wire_cases.record_dense(cases)
    for rule in ("other keys", "tiles", "other tiles", "keys"):
        wire_cases.record_schedule(cases, rule, info)
    wire_cases.record_baselines(cases)


def together_cases(cases, setup, info):
    """Whole requests, and two requests at a time."""
    whole_cases(cases, setup, info)
    wire_cases.record_pairs(cases)


def chunked_cases(cases, setup, info):
    """The prompt is longer than a step."""
    wire_cases.record_dense(cases)
    for rule in ("tiles", "keys"):
        wire_cases.record_schedule(cases, rule, info)


def short_cases(cases, setup, info):
    """One of each kind."""
    cases.activate("keys", info)
    cases.generate("keys, sampled", wire_cases.sparse(), wire_cases.SAMPLED)
    cases.score("keys, compared", wire_cases.compare())


def protocol_cases(cases, setup, info):
    wire_cases.record_protocols(cases, setup.model.text[:1500])


def portable_cases(cases, setup, info):
    """Little of everything: the plain backend computes some 100 tokens a second."""
    cases.generate("dense, greedy", wire_cases.DENSE)
    short_cases(cases, setup, info)
    cases.activate("tiles", info)
    cases.score("tiles, tiles decide", wire_cases.sparse(), phase="SELECTION_PHASE_TILE")
    for name in ("other oracle", "other streaming", "other quest"):
        cases.generate(f"{name}, greedy", wire_cases.sparse(baseline=wire_cases.baseline(name)))


def calibration_cases(cases, setup, info):
    wire_cases.record_calibrations(cases, (setup.model.folder / "calibration.txt").read_text())


EXTENTS = {"whole": whole_cases, "together": together_cases, "chunked": chunked_cases,
           "short": short_cases, "protocols": protocol_cases, "portable": portable_cases,
           "calibration": calibration_cases}


class Recorder:
    def __init__(self, arguments, scratch):
        self.arguments, self.scratch = arguments, scratch
        self.protos = wire.Protos(arguments.protos, scratch)

    def folder(self):
        """A new one."""
        return pathlib.Path(tempfile.mkdtemp(dir=self.scratch))

    def server(self, setup):
        return wire.serving(self.arguments.kascade_server, self.protos, self.folder(),
                            "--model", str(setup.model.folder), "--backend", setup.backend,
                            "--weights", setup.weights, "--kv-cache-dtype", setup.cache,
                            *setup.flags)

    def new_recording(self):
        return Recording(portable=self.arguments.reference_only)

    def tokenize(self, model):
        """Sets the model's tokens, which all cases are made of."""
        recording, setup = self.new_recording(), Setup(model, "reference", "f32", "tokenizer")
        with self.server(setup) as server:
            model.tokens = wire_cases.record_tokenizer(server, model.name, model.text, recording)
        return recording

    def serve(self, setup):
        recording = self.new_recording()
        try:
            with self.server(setup) as server:
                info = server.call("InferenceService.GetModelInfo", {})
                recording.case(f"{setup.title}: model")
                wire_records.record_info(info, recording)
                cases = wire_cases.Cases(server, setup.title, recording,
                                         setup.model.tokens[:setup.tokens])
                EXTENTS[setup.extent](cases, setup, info)
        except wire.Refused as refusal:
            print(f"skipped: {setup.title}: {refusal}", flush=True)
            recording.case(setup.title)
            recording.exact("skipped", "this processor cannot run it")
        return recording

    def probe(self, model, backend, weights, tokens):
        recording = self.new_recording()
        probe_cases.record(self.arguments.engine_probe, model, backend, weights,
                           model.tokens[:tokens], recording, self.folder())
        return recording

    def convert(self):
        """The model that kascade-convert makes of a llama2.c file, and its recording."""
        recording, folder = self.new_recording(), self.folder() / "stories"
        subprocess.run([self.arguments.kascade_convert, self.arguments.llama2c, folder],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        recording.case("stories260K: files of kascade-convert")
        for file in sorted(folder.iterdir()):
            recording.exact(file.name, hashlib.sha256(file.read_bytes()).hexdigest())
        return Model("stories260K", folder, STORY * 4), recording


def portable_jobs(recorder, demo):
    for weights in ("f32", "int8", "int4"):
        yield lambda w=weights: recorder.probe(demo, "reference", w, 160)
    yield lambda: recorder.serve(Setup(demo, "reference", "f32", "portable", tokens=96))
    yield lambda: recorder.serve(Setup(demo, "reference", "int8", "short", tokens=96))


def served_setups(demo, stories):
    small_steps = ("--max-batch-tokens", "260", "--max-sequences", "4")
    yield Setup(demo, "cpu", "f32", "protocols")
    for weights in ("f32", "bf16"):
        yield Setup(demo, "cpu", weights, "calibration")
    for weights in ("f32", "bf16", "int8", "int4"):
        yield Setup(demo, "cpu", weights, "together")
        yield Setup(demo, "cpu", weights, "chunked", tokens=900, flags=small_steps)
    for weights in ("f32", "bf16", "int8"):
        yield Setup(demo, "cpu", weights, "together", cache="int8")
    for weights in ("f32", "int8", "int4"):
        yield Setup(demo, "reference", weights, "short", tokens=160)
    yield Setup(demo, "reference", "f32", "short", cache="int8", tokens=160)
    if stories:
        for weights in ("f32", "bf16", "int8", "int4"):
            yield Setup(stories, "cpu", weights, "whole", tokens=240)
        for weights in ("f32", "int8", "int4"):
            yield Setup(stories, "reference", weights, "whole", tokens=240)


def all_jobs(recorder, demo, stories):
    for setup in served_setups(demo, stories):
        yield lambda s=setup: recorder.serve(s)
    for model in filter(None, (demo, stories)):
        length = 640 if model is demo else 400
        for weights in ("f32", "bf16", "int8", "int4"):
            yield lambda m=model, w=weights, n=length: recorder.probe(m, "cpu", w, n)
        length = 168 if model is demo else 400
        for weights in ("f32", "int8", "int4"):
            yield lambda m=model, w=weights, n=length: recorder.probe(m, "reference", w, n)


def record(arguments, scratch):
    """Two jobs run at a time; their recordings keep the order of the jobs."""
    recorder = Recorder(arguments, scratch)
    text = (arguments.demo / "evaluation.txt").read_text()
    demo = Model("demo", arguments.demo, text[:1200 if arguments.reference_only else 5000])
    stories, parts = None, []
    if arguments.llama2c and not arguments.reference_only:
        stories, recording = recorder.convert()
        parts = [recording, recorder.tokenize(stories)]
    elif not arguments.reference_only:
        print("skipped: stories260K: no --llama2c", flush=True)
    parts.insert(0, recorder.tokenize(demo))
    jobs = (portable_jobs(recorder, demo) if arguments.reference_only
            else all_jobs(recorder, demo, stories))
    with ThreadPoolExecutor(JOBS_AT_A_TIME) as pool:
        started = [pool.submit(job) for job in jobs]
        try:
            parts += [job.result() for job in started]
        finally:  # after a failure the rest is not worth waiting for
            pool.shutdown(cancel_futures=True)
    return "".join(part.text() for part in parts)


def parse_arguments():
    def path(text):
        return pathlib.Path(text).resolve()

    parser = argparse.ArgumentParser(description="Records the results of one build.")
    parser.add_argument("--engine-probe", type=path, required=True)
    parser.add_argument("--kascade-server", type=path, required=True)
    parser.add_argument("--kascade-convert", type=path, help="needed by --llama2c")
    parser.add_argument("--protos", type=path, required=True, help="folder of the build's protos")
    parser.add_argument("--demo", type=path, default=ROOT / "models/demo", help="folder")
    parser.add_argument("--llama2c", type=path, help="stories260K.bin, with its tokenizer beside")
    parser.add_argument("--out", type=path, required=True)
    parser.add_argument("--reference-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.llama2c and not arguments.kascade_convert:
        parser.error("--llama2c needs --kascade-convert")
    return arguments


def main():
    arguments, begin = parse_arguments(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kascade-same-bits-") as scratch:
        text = record(arguments, scratch)
    arguments.out.write_text(text)
    count = sum(line.startswith("[") for line in text.splitlines())
    print(f"{count} cases in {time.monotonic() - begin:.0f} s: {arguments.out}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
