#!/usr/bin/env python3
"""Trains the demo model: from folders of books to a Hugging Face folder that the server loads.

    tools/train_demo_model.py all --books FOLDER --work WORK --model MODEL

does everything; the steps can also be run one by one:
    prepare   books → WORK/books, tokenizer and encoded books in WORK/tokenizer
    train     → WORK/run: last.pt, before-decay.pt, final.pt, log.jsonl; goes on from last.pt;
              SIGTERM or Ctrl-C ends it with a checkpoint
    export    a checkpoint → MODEL
    evaluate  MODEL → evaluation.json, tables.md, and figures as SVG, in WORK

Needs numpy and PyTorch 1.13 or newer, and g++. On a CPU with AVX-512 bf16 the training uses kernels
of its own, elsewhere PyTorch's; --device cuda has not been tried on a GPU yet. To train on after the
learning rate has decayed, go on from before-decay.pt, with a later decay:
    tools/train_demo_model.py train --work WORK --resume WORK/run/before-decay.pt \\
        --decay 40000000 50000000
"""

import argparse
import json
import os
import signal
import subprocess
import sys

import numpy as np

from demo_model import books, tasks
from demo_model.tokenizer import Tokenizer

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo_model")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["all", "prepare", "train", "export", "evaluate"])
    parser.add_argument("--work", required=True, help="folder for everything but the model")
    parser.add_argument("--books", action="append", default=[],
                        help="folder of .txt or .txt.xz books; may be given more than once")
    parser.add_argument("--model", help="model folder to write, or to evaluate")
    parser.add_argument("--plan", default=os.path.join(SOURCES, "plan.json"),
                        help="shape, data, stages (default: the plan beside the sources)")
    parser.add_argument("--resume", help="checkpoint that training goes on from "
                                         "(default: WORK/run/last.pt if there is one)")
    parser.add_argument("--checkpoint", help="what is exported (default: WORK/run/final.pt)")
    parser.add_argument("--decay", nargs=2, type=int, metavar=("FROM", "TO"),
                        help="tokens seen between which the learning rate falls; TO ends the run")
    parser.add_argument("--cases", type=int, help="recall cases per row (default: the plan's)")
    parser.add_argument("--book-tokens", type=int,
                        help="tokens of each held-out book that are scored (default: the plan's)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.step in ("all", "prepare") and not options.books:
        parser.error("prepare needs --books")
    if options.step != "prepare" and options.step != "train" and not options.model:
        parser.error(f"{options.step} needs --model")
    return options


def read_plan(options):
    with open(options.plan, encoding="utf-8") as file:
        fields = json.load(file)
    if options.decay:
        fields["decay"]["from_tokens"], fields["decay"]["to_tokens"] = options.decay
    return fields


# ---- Books ---------------------------------------------------------------------------------------


def prepare(options, fields):
    """Brings the books into one form, trains the tokenizer on those not held out, encodes them."""
    folders = {kind: os.path.join(options.work, "books", kind) for kind in ("train", "held_out")}
    tokenizer = os.path.join(options.work, "tokenizer")
    for folder in [*folders.values(), tokenizer]:
        os.makedirs(folder, exist_ok=True)
    training = []
    for path in books.find_books(options.books):
        name = books.book_name(path)
        kind = "held_out" if name in fields["held_out"] else "train"
        target = os.path.join(folders[kind], name + ".txt")
        with open(target, "w", encoding="utf-8") as file:
            file.write(books.read_book(path))
        training += [target] if kind == "train" else []
    if not training:
        sys.exit("no books found in " + ", ".join(options.books))
    program = os.path.join(options.work, "bpe")
    subprocess.run(["g++", "-std=c++20", "-O2", "-o", program, os.path.join(SOURCES, "bpe.cc")],
                   check=True)
    subprocess.run([program, str(fields["shape"]["vocabulary"]), tokenizer, *training], check=True)
    texts = []
    for path in training[::4]:
        with open(path, encoding="utf-8") as file:
            texts.append(file.read(400_000))
    with open(os.path.join(options.work, "value_words.json"), "w", encoding="utf-8") as file:
        json.dump(tasks.value_words(texts), file)


def held_out_books(options, fields, tokenizer):
    """{name: ids} of the held-out books, in the plan's order."""
    found = {}
    for name in fields["held_out"]:
        path = os.path.join(options.work, "books", "held_out", name + ".txt")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                found[name] = np.array(tokenizer.encode(file.read()))
    return found or sys.exit(f"none of the held-out books is in {options.work}/books/held_out")


def value_words(options):
    with open(os.path.join(options.work, "value_words.json"), encoding="utf-8") as file:
        return json.load(file)


# ---- Model ---------------------------------------------------------------------------------------


def make_model(options, shape, parameters):
    """The fastest implementation that this machine has."""
    from demo_model.fused_model import FusedModel, processor_has_kernels
    from demo_model.model import PlainModel

    if options.device == "cpu" and processor_has_kernels():
        return FusedModel(shape, parameters, options.work)
    return PlainModel(shape, parameters, options.device)


def train(options, fields):
    from demo_model.training import Plan, Trainer, progress_examiner

    tokenizer = Tokenizer.from_bpe(os.path.join(options.work, "tokenizer"))
    corpus = np.fromfile(os.path.join(options.work, "tokenizer", "corpus.bin"), np.uint16)
    words = value_words(options)
    held_out = held_out_books(options, fields, tokenizer)
    folder = os.path.join(options.work, "run")
    os.makedirs(folder, exist_ok=True)
    trainer = Trainer(lambda shape, parameters: make_model(options, shape, parameters),
                      tasks.Tasks(tokenizer, corpus, words, fields["seed"]), Plan(fields), folder)
    last = options.resume or os.path.join(folder, "last.pt")
    if options.resume or os.path.exists(last):
        trainer.load(last)
    trainer.log("start", parameters=sum(v.numel() for v in trainer.model.parameters.values()),
                model=type(trainer.model).__name__, decay=fields["decay"])
    signal.signal(signal.SIGTERM, trainer.stop)
    signal.signal(signal.SIGINT, trainer.stop)
    trainer.train(progress_examiner(tokenizer, list(held_out.values()), words,
                                    fields["progress_cases"]))


def export(options, _):
    import torch

    from demo_model.export import write_model
    from demo_model.model import Shape

    state = torch.load(options.checkpoint or os.path.join(options.work, "run", "final.pt"),
                       map_location="cpu")
    write_model(options.model, Shape(**state["shape"]), state["parameters"],
                Tokenizer.from_bpe(os.path.join(options.work, "tokenizer")))
    print(f"{options.model}: {state['tokens']} tokens seen")


def evaluate(options, fields):
    from demo_model import evaluation, figures, tables
    from demo_model.export import read_model

    tokenizer = Tokenizer.from_model(options.model)
    model = make_model(options, *read_model(options.model))
    settings = fields["evaluation"]
    settings["recall_cases"] = options.cases or settings["recall_cases"]
    settings["book_tokens"] = options.book_tokens or settings["book_tokens"]
    result = evaluation.report(model, tokenizer, held_out_books(options, fields, tokenizer),
                               value_words(options), settings)
    with open(os.path.join(options.work, "evaluation.json"), "w", encoding="utf-8") as file:
        json.dump({"settings": settings, **result}, file, indent=1)
    outputs = {"attention.svg": figures.attention_bars(result["attention"]),
                "tables.md": tables.all_tables(result)}
    log = os.path.join(options.work, "run", "log.jsonl")
    if os.path.exists(log):
        with open(log, encoding="utf-8") as file:
            records = [json.loads(entry) for entry in file]
        records = [record for record in records if record["event"] == "evaluation"]
        if records:
            outputs["training.svg"] = figures.training_curve(records)
    for name, content in outputs.items():
        with open(os.path.join(options.work, name), "w", encoding="utf-8") as file:
            file.write(content)


def main():
    options = arguments()
    fields = read_plan(options)
    if options.step != "prepare":
        import torch

        torch.set_num_threads(options.threads)
    steps = {"prepare": prepare, "train": train, "export": export, "evaluate": evaluate}
    for name, step in steps.items():
        if options.step in (name, "all"):
            step(options, fields)
    return 0


if __name__ == "__main__":
    sys.exit(main())
