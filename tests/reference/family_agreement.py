"""Agreement of the engine with the float64 reference on every model family and rope type:
family_agreement.py ENGINE_PROBE [FILTER]. Small random models, on both backends; see
engine_agreement.py, whose verdicts these are.
"""

import pathlib
import sys
import tempfile

import agreement_cases as cases
from engine_agreement import Job, Subject, judge_job
from probe import Probe
from random_model import write_model

TOKENS = 161  # of the longest run
MOST_LOGITS = 1e-4  # largest difference of a logit that any job may allow


def family_jobs(folder):
    for number, (name, spec) in enumerate(cases.FAMILIES.items()):
        path = write_model(folder / f"model{number}", spec)
        streams = {"random": cases.streams()["random"][:TOKENS]}
        subject = Subject(path, streams)
        for backend in ("reference", "cpu"):
            yield Job(f"{name}, {backend}", subject, cases.family_runs(spec), backend)


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    wanted = arguments[1] if len(arguments) > 1 else ""
    failed = count = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for job in family_jobs(folder):
            if wanted not in job.title:
                continue
            probe = Probe(arguments[0], folder / f"job{count}", job.backend)
            started = probe.start(job.subject.folder, job.runs, job.subject.streams)
            failed += judge_job(job, probe, started)
            for run in job.runs:
                if job.allowed(run).logits > MOST_LOGITS:
                    failed += 1
                    print(f"FAIL {job.title}: {run}: rounding allows {job.allowed(run).logits:.1e}")
            count += 1
    if failed or not count:
        sys.exit(f"{failed} disagreements in {count} jobs")


if __name__ == "__main__":
    main(sys.argv[1:])
