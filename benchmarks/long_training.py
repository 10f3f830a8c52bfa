"""Does a lead before training survive long training? Models of several tools at one cost, 1 to 30 epochs of all images.

    python benchmarks/long_training.py --net resnet20 --weights cifar_resnet20_jpeg.safetensors --data cifar10-jpeg \\
        --validation-list cifar10-jpeg-val.txt --study runs/search_resnet20 --work runs/long_resnet20

A model of every tool at half of the MACs and at 0.6 of the measured latency, and the baseline itself, are trained by
one recipe, distilled from the baseline. `--stage models` makes them, `train` trains them, on a GPU in minutes, `time`
measures their latency on a machine that should be quiet; every stage goes on where it stopped.
`long_training_page.py` makes the page.

Each tool gets the learning rate, and ghostsearch of its few candidates the one, that is best on the selection split
after CHOOSING epochs. The test split is read for what is reported alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.long_models import BUDGETS, IMPORTANCES, make_models
from benchmarks.networks import configured, network_arguments
from benchmarks.rivals import rebuilt
from benchmarks.rows import append_row, read_rows
from benchmarks.together import Learner, train_together
from ghostsearch.data.load import Data
from ghostsearch.data.sets import ImageSet
from ghostsearch.files import write_text
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import load_model
from ghostsearch.study.setup import Given, Setup, open_setup
from ghostsearch.training.evaluate import evaluate, torch_device
from ghostsearch.training.recipe import Recipe

CHOOSING = 3
LENGTHS = (1, 3, 10, 30)
REPEATED = 10
"""The length that SEEDS are trained for."""
SEEDS = (0, 1, 2)
RANDOM_RATE = 0.1
"""The learning rate of the random architectures."""


@dataclass(frozen=True)
class Job:
    """One training of one model from its inherited weights."""

    model: str
    epochs: int
    lr: float
    seed: int
    test: bool


def main() -> None:
    args = arguments()
    if "models" in args.stage:
        make_models(args)
    if "train" in args.stage:
        train_all(args)
    if "time" in args.stage:
        add_latencies(args)


def arguments() -> argparse.Namespace:
    parser = network_arguments(__doc__, ["resnet20", "resnet56"], "runs/long_training")
    parser.add_argument("--study", type=Path, nargs="+", default=[], help="finished untrained searches of the network")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=list(BUDGETS), help="at equal what")
    parser.add_argument("--importances", nargs="+", default=list(IMPORTANCES), choices=IMPORTANCES)
    parser.add_argument("--models", nargs="+", help="only these are made and trained, as models.json names them")
    parser.add_argument("--stage", nargs="+", default=["models", "train", "time"], choices=["models", "train", "time"])
    parser.add_argument(
        "--candidates", type=int, default=4, help="models of the study that ghostsearch chooses from, as from finalists"
    )
    parser.add_argument("--random", type=int, default=12, help="random architectures, for the page about fidelity")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.03, 0.1, 0.3], help="learning rates to choose from"
    )
    parser.add_argument("--train-images", type=int, help="of the 45,000; default: all")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument(
        "--train-precision",
        default="auto",
        help="bf16-mixed, or else float32; a GPU trains in bfloat16",
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=len(SEEDS), help=f"seeds of {REPEATED} epochs")
    parser.add_argument("--device", default="auto", help="where to train")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the device")
    parser.add_argument("--together", type=int, default=1, help="trainings at a time on the same batches")
    parser.add_argument("--seconds", type=float, default=1e9, help="no training is begun after so many seconds")
    return parser.parse_args()


def jobs(models: list[dict[str, Any]], rows: list[dict[str, str]], args: argparse.Namespace) -> list[Job]:
    """What can be trained now: first every learning rate for a few epochs, then the chosen ones for every length."""
    models = [m for m in models if not args.models or m["model"] in args.models]
    models = [m for i, m in enumerate(models) if not any(same_model(m, earlier) for earlier in models[:i])]
    done = {(r["model"], int(r["epochs"]), float(r["lr"]), int(r["seed"]), bool(r["test"])) for r in rows}
    settled = chosen_runs(models, [], args.rates)
    compared = [m["model"] for m in models if m["tool"] != "random" and m["model"] not in settled]
    wanted = [Job(name, CHOOSING, lr, SEEDS[0], test=False) for name in compared for lr in args.rates]
    drawn = [m["model"] for m in models if m["tool"] == "random"]
    rungs = [Job(name, epochs, RANDOM_RATE, SEEDS[0], test=False) for epochs in (10, 3, 1) for name in drawn]
    if all((j.model, j.epochs, j.lr, j.seed, j.test) in done for j in wanted):
        chosen = chosen_runs(models, rows, args.rates)

        def whole(length: int, seed: int) -> list[Job]:
            return [Job(name, length, lr, seed, test=True) for name, lr in chosen.items()]

        short = [length for length in args.lengths if length < REPEATED]
        wanted += whole(REPEATED, SEEDS[0]) + [j for length in short for j in whole(length, SEEDS[0])] + rungs
        wanted += [j for seed in SEEDS[1 : args.repeats] for j in whole(REPEATED, seed)]
        wanted += [j for length in args.lengths if length > REPEATED for j in whole(length, SEEDS[0])]
    return [j for j in wanted if (j.model, j.epochs, j.lr, j.seed, j.test) not in done]


def same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two names stand for one model, best at both budgets, whose trainings are then the same."""
    return all(one[what] == other[what] for what in ("tool", "structure", "before"))


def chosen_runs(models: list[dict[str, Any]], rows: list[dict[str, str]], rates: Collection[float]) -> dict[str, float]:
    """The model that stands for each tool and budget, with its learning rate: the best on the selection split.

    Where there is one rate and a tool has one model, there is nothing to choose.
    """
    tried = [r for r in rows if int(r["epochs"]) == CHOOSING and not r["test"]]
    kinds = {m["model"]: (m["tool"], m["budget"]) for m in models if m["tool"] != "random"}
    alone = Counter(kinds.values())
    best: dict[tuple[str, str], tuple[float, str, float]] = {
        kind: (0.0, name, *rates) for name, kind in kinds.items() if len(rates) == alone[kind] == 1
    }  # fmt: skip
    for row in tried:
        if kind := kinds.get(row["model"]):
            found = float(row["validation"]), row["model"], float(row["lr"])
            best[kind] = max(best.get(kind, found), found)
    return {name: lr for _, name, lr in best.values()}


def train_all(args: argparse.Namespace) -> None:
    """Train what is missing, in as many processes as asked for, which take one training after another."""
    models, rows = json.loads((args.work / "models.json").read_text()), args.work / "rows.csv"
    decoded(args)
    context, until = multiprocessing.get_context("spawn"), time.monotonic() + args.seconds
    asked, told = context.Queue(), context.Queue()
    workers = [context.Process(target=work, args=(args, models, asked, told), daemon=True) for _ in range(args.workers)]
    for worker in workers:
        worker.start()
    given: set[Job] = set()
    under_way = 0
    while True:
        new = [j for j in jobs(models, read_rows(rows), args) if j not in given]
        while new and under_way < args.workers and time.monotonic() < until:
            some = alike(new, args.together)
            given.update(some)
            asked.put(some)
            new = new[len(some) :]
            under_way += 1
        if not under_way:
            break
        found = told.get()
        if found is None:
            raise SystemExit("a training failed; its traceback stands above")
        under_way -= 1
        for row in found:
            trained_one = next(m for m in models if m["model"] == row["model"])
            for name in [m["model"] for m in models if same_model(m, trained_one)]:
                append_row(rows, row | {"model": name})
            print(*row.values(), flush=True)
    for worker in workers:
        worker.kill()


def decoded(args: argparse.Namespace) -> None:
    """Keep the images of every split as tensors, which every training reads."""
    images = args.work / "images.pt"
    if not images.exists():
        images.parent.mkdir(parents=True, exist_ok=True)
        config = configured(args, 0).model_copy(update={"train_images": args.train_images})
        torch.save({n: (s.images, s.labels) for n, s in splits(open_setup(config).data).items()}, images)


def alike(wanted: list[Job], most: int) -> list[Job]:
    """The first jobs that differ in model and rate alone: those can be trained on the same batches."""
    first = wanted[0]
    same = takewhile(lambda j: (j.epochs, j.seed, j.test) == (first.epochs, first.seed, first.test), wanted)
    return list(islice(same, most))


def work(args: argparse.Namespace, models: list[dict[str, Any]], asked: Any, told: Any) -> None:
    """One process: opens the network once, then trains and scores whatever it is asked for."""
    torch.set_num_threads(1)
    try:
        bench = given_images(args)
        device = str(torch_device(args.device))
        data, found = on_device(bench.data, device, args.batch_size), {m["model"]: m for m in models}
        while True:
            some: list[Job] = asked.get()
            made = [with_weights(bench, found[job.model], args.work) for job in some]
            told.put(trained(args, bench, data, some, made, device))
    # The others wait for its answer.
    except Exception:
        told.put(None)
        raise


def trained(
    args: argparse.Namespace, bench: Setup, data: Data, some: list[Job], made: list[nn.Module], device: str
) -> list[dict[str, Any]]:
    """The rows of some trainings that differ in model and rate alone; one whose loss is not finite scores nothing."""
    started, teacher, first = time.perf_counter(), bench.baseline.module, some[0]
    on = torch.cuda.get_device_name() if device.startswith("cuda") else device
    recipe = Recipe(
        epochs=first.epochs, seed=first.seed, batch_size=args.batch_size, compute_device=device,
        train_precision=args.train_precision,
    )  # fmt: skip
    learners = [Learner(model, job.lr) for model, job in zip(made, some, strict=True)]
    finite = train_together(learners, splits(data)["train"], recipe, bench.task, teacher)
    seconds = round((time.perf_counter() - started) / len(some), 1)
    return [
        {
            "model": job.model, "epochs": job.epochs, "lr": job.lr, "seed": job.seed,
            "validation": evaluate(model, data.validation, bench.task, device) if good else 0.0,
            "test": (evaluate(model, data.test, bench.task, device) if good else 0.0) if job.test else "",
            "seconds": seconds, "device": on, "images": len(splits(data)["train"]), "batch_size": args.batch_size,
        }
        for job, model, good in zip(some, made, finite, strict=True)
    ]  # fmt: skip


def given_images(args: argparse.Namespace) -> Setup:
    """The network with the images that `train_all` has decoded."""
    config = configured(args, 0)
    loaded = load_model(config.model, weights=config.weights, seed=config.seed)
    kept: Mapping[str, tuple[Tensor, Tensor]] = torch.load(args.work / "images.pt", weights_only=True)
    sets = {
        name: ImageSet(*pair, loaded.input, **({"shift": 4, "flips": True} if name == "train" else {}))
        for name, pair in kept.items()
    }
    data = Data(config.data, **{n: loader(s, n, args.batch_size) for n, s in sets.items()}, kind="class")
    return open_setup(config, given=Given(loaded, data))


def splits(data: Data) -> dict[str, Any]:
    return {name: getattr(data, name).dataset for name in ("train", "validation", "test")}


def loader(images: ImageSet, name: str, batch_size: int) -> DataLoader[Any]:
    """Batches of a split, shuffled for training."""
    training = name == "train"
    return DataLoader(
        images, batch_size if training else 2000, shuffle=training, drop_last=training, generator=torch.Generator(),
        collate_fn=lambda batch: batch,
    )  # fmt: skip


def on_device(data: Data, device: str, batch_size: int) -> Data:
    """The same images, held where the training is."""
    moved = {
        n: ImageSet(s.images.to(device), s.labels.to(device), s.input_spec, shift=s.shift, flips=s.flips)
        for n, s in splits(data).items()
    }
    return replace(data, **{n: loader(s, n, batch_size) for n, s in moved.items()})


def with_weights(bench: Setup, entry: Mapping[str, Any], folder: Path) -> nn.Module:
    """A model of models.json with its inherited weights."""
    model = rebuilt(bench, str(entry["structure"]))
    model.load_state_dict(load_file(folder / f"{entry['model']}.safetensors"))
    return model


def add_latencies(args: argparse.Namespace) -> None:
    """Time what stands for each tool beside the baseline, all in turns; weights do not matter for that."""
    models, bench = json.loads((args.work / "models.json").read_text()), open_setup(configured(args, 0))
    wanted = chosen_runs(models, read_rows(args.work / "rows.csv"), args.rates)
    timed = measure_latency(
        {m["model"]: with_weights(bench, m, args.work) for m in models if m["model"] in wanted}, bench.example,
        baseline=bench.baseline.module, setting=Setting(time_limit=5.0 * len(wanted), seed=args.seed),
    )  # fmt: skip
    kept = {n: {"ratio": x.ratio, "interval": x.ratio_interval, "median_s": x.median_s} for n, x in timed.items()}
    about = {"device": next(iter(timed.values())).device, "threads": 1, "models": kept}
    write_text(args.work / "timing.json", json.dumps(about))
    print(pd.DataFrame(kept).T.to_string())


if __name__ == "__main__":
    main()
