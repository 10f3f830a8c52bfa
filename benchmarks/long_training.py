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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.graphed import train_graphed
from benchmarks.networks import configured, network_arguments, opened, random_near
from benchmarks.rivals import converted, fastnas_model, pruned, rebuilt, shapes
from benchmarks.rows import append_row, read_rows
from ghostsearch.data.load import Data
from ghostsearch.data.sets import ImageSet
from ghostsearch.files import write_text
from ghostsearch.measure.cost import measure_cost
from ghostsearch.measure.cost_table import encode
from ghostsearch.measure.latency import measure_latency
from ghostsearch.measure.setting import Setting
from ghostsearch.models.load import load_model
from ghostsearch.space.architecture import Architecture
from ghostsearch.study.candidates import build_candidates, losses_of
from ghostsearch.study.directory import load_study
from ghostsearch.study.setup import Given, Setup, open_setup
from ghostsearch.study.solve import solve_study
from ghostsearch.training.evaluate import evaluate, torch_device
from ghostsearch.training.loop import train
from ghostsearch.training.recipe import Recipe

BUDGETS = {"macs": 0.5, "latency": 0.6}
"""Shares of the baseline's cost that a model may have at most."""
SLACK = 0.01
"""Of a latency, as far as two runs of the clock may differ."""
IMPORTANCES = ("L1", "group norm", "Taylor")
RATIOS = tuple(r / 100 for r in range(40, 86))
BATCH = 512
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
    parser.add_argument("--study", type=Path, nargs="+", default=[], help="finished label-free searches of the network")
    parser.add_argument("--stage", nargs="+", default=["models", "train", "time"], choices=["models", "train", "time"])
    parser.add_argument(
        "--candidates", type=int, default=4, help="models of the study that ghostsearch chooses from, as from finalists"
    )
    parser.add_argument("--random", type=int, default=12, help="random architectures, for the page about fidelity")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.03, 0.1, 0.3], help="learning rates to choose from"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=len(SEEDS), help=f"seeds of {REPEATED} epochs")
    parser.add_argument("--device", default="auto", help="where to train")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the device")
    parser.add_argument("--seconds", type=float, default=1e9, help="no training is begun after so many seconds")
    return parser.parse_args()


def make_models(args: argparse.Namespace) -> None:
    """The models of every tool, as structures in models.json and weights beside it."""
    bench = opened(args)
    target, found = args.work / "models.json", []
    target.parent.mkdir(parents=True, exist_ok=True)
    losses = losses_of(build_candidates(bench, args.work), bench.space) if args.random else []
    for name, tool, budget, point, model in proposals(bench, args):
        cost = measure_cost(model, bench.example)
        structure = getattr(model, "structure", "") or json.dumps(shapes(model))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, args.work / f"{name}.safetensors")
        before = evaluate(model, bench.data.validation, bench.task)
        found.append({
            "model": name, "tool": tool, "budget": budget, "point": point, "structure": structure, "macs": cost.macs,
            "macs_ratio": cost.macs / bench.baseline_cost.macs, "before": before,
            "predicted": predicted(bench, losses, structure) if tool == "random" else None,
        })  # fmt: skip
        print(name, tool, budget, point, f"{found[-1]['macs_ratio']:.3f} of the MACs, {before:.4f}", flush=True)
    write_text(target, json.dumps(found))


def predicted(bench: Setup, losses: Sequence[Any], structure: str) -> float:
    """What the candidate table says that an architecture loses: the sum of its choices' divergences."""
    code = encode(bench.space, [Architecture.from_dict(json.loads(structure))])[0]
    return float(sum(losses[i][option] for i, option in enumerate(code)))


def proposals(bench: Setup, args: argparse.Namespace) -> Iterator[tuple[str, str, str, str, nn.Module]]:
    """Name, tool, budget, point and model of everything that is compared."""
    yield "baseline", "baseline", "", "", converted(bench, Architecture.of({}))
    for budget, share in BUDGETS.items():
        for number, architecture in enumerate(best_of(args.study, budget, share)[: args.candidates]):
            name = f"ghostsearch_{budget}_{number}"
            yield name, "ghostsearch", budget, architecture.digest, converted(bench, architecture)
        answer = solve_study(args.study[0], {budget: f"{100 * share:g}%"}, count=1)[0].architecture
        yield f"solver_{budget}", "solver only", budget, answer.digest, converted(bench, answer)
        for importance in IMPORTANCES:
            point, model = nearest_pruned(bench, importance, budget, share)
            yield f"{importance.replace(' ', '_')}_{budget}", importance, budget, point, model
    if find_spec("modelopt"):
        share = BUDGETS["macs"]
        yield "FastNAS_macs", "FastNAS", "macs", f"{share:g}", fastnas_model(bench, share, args.work)
    for text in ("width(0.5)", "ghost(ratio=2, kernel=3)"):
        table = bench.space.groups if text.startswith("width") else bench.space.sites
        chosen = {path: text for path, options in table.items() if text in options}
        architecture = Architecture.of({}, chosen) if text.startswith("width") else Architecture.of(chosen)
        yield f"uniform_{text.split('(')[0]}", f"uniform {text}", "macs", "", converted(bench, architecture)
    for architecture in random_near(bench, args.random, BUDGETS["macs"], seed=1):
        yield f"random_{architecture.digest}", "random", "", architecture.digest, converted(bench, architecture)


def best_of(studies: Sequence[Path], budget: str, share: float) -> list[Architecture]:
    """The best of some studies' trials within a budget, by their scores on the selection split."""
    found: dict[str, tuple[float, Architecture]] = {}
    for view in map(load_study, studies):
        records = [r for r in view.records if r.state == "complete" and r.cost and r.latencies]
        baseline = next(r for r in records if r.digest == "baseline")
        for r in records:
            macs = r.cost.macs / baseline.cost.macs  # type: ignore[union-attr]
            score, ratio = r.score(), macs if budget == "macs" else r.latencies[0].ratio
            if score and ratio is not None and ratio <= share + (SLACK if budget == "latency" else 0):
                found[r.digest] = score.value, r.architecture
    return [architecture for _, architecture in sorted(found.values(), key=lambda pair: -pair[0])]


def nearest_pruned(bench: Setup, importance: str, budget: str, share: float) -> tuple[str, nn.Module]:
    """torch-pruning's model at the lowest ratio that meets a budget; channels cut singly for MACs, by 8 for latency."""
    rounded = {"round_to": bench.space.width_multiple if budget == "latency" else 1}
    made: dict[str, nn.Module] = {}
    for ratio in RATIOS:
        model = pruned(bench, importance, ratio, **rounded)
        if budget == "macs":
            if measure_cost(model, bench.example).macs <= share * bench.baseline_cost.macs:
                return f"ratio {ratio:g}", model
        elif not any(shapes(model) == shapes(m) for m in made.values()):
            made[f"ratio {ratio:g}"] = model
    timed = measure_latency(
        made, bench.example, baseline=bench.baseline.module, setting=Setting(time_limit=2.0 * len(made), seed=0)
    )
    meets = [name for name in made if timed[name].ratio <= share + SLACK]
    name = meets[0] if meets else min(made, key=lambda n: timed[n].ratio)
    return name, made[name]


def jobs(models: list[dict[str, Any]], rows: list[dict[str, str]], args: argparse.Namespace) -> list[Job]:
    """What can be trained now: first every learning rate for a few epochs, then the chosen ones for every length."""
    done = {(r["model"], int(r["epochs"]), float(r["lr"]), int(r["seed"]), bool(r["test"])) for r in rows}
    compared = [m["model"] for m in models if m["tool"] != "random"]
    wanted = [Job(name, CHOOSING, lr, SEEDS[0], test=False) for name in compared for lr in args.rates]
    drawn = [m["model"] for m in models if m["tool"] == "random"]
    rungs = [Job(name, epochs, RANDOM_RATE, SEEDS[0], test=False) for epochs in (10, 3, 1) for name in drawn]
    if all((j.model, j.epochs, j.lr, j.seed, j.test) in done for j in wanted):
        chosen = chosen_runs(models, rows)

        def whole(length: int, seed: int) -> list[Job]:
            return [Job(name, length, lr, seed, test=True) for name, lr in chosen.items()]

        short = [length for length in args.lengths if length < REPEATED]
        wanted += whole(REPEATED, SEEDS[0]) + [j for length in short for j in whole(length, SEEDS[0])] + rungs
        wanted += [j for seed in SEEDS[1 : args.repeats] for j in whole(REPEATED, seed)]
        wanted += [j for length in args.lengths if length > REPEATED for j in whole(length, SEEDS[0])]
    return [j for j in wanted if (j.model, j.epochs, j.lr, j.seed, j.test) not in done]


def chosen_runs(models: list[dict[str, Any]], rows: list[dict[str, str]]) -> dict[str, float]:
    """The model that stands for each tool and budget, with its learning rate: the best on the selection split."""
    tried = [r for r in rows if int(r["epochs"]) == CHOOSING and not r["test"]]
    kinds = {m["model"]: (m["tool"], m["budget"]) for m in models if m["tool"] != "random"}
    best: dict[tuple[str, str], tuple[float, str, float]] = {}
    for row in tried:
        if kind := kinds.get(row["model"]):
            found = float(row["validation"]), row["model"], float(row["lr"])
            best[kind] = max(best.get(kind, found), found)
    return {name: lr for _, name, lr in best.values()}


def train_all(args: argparse.Namespace) -> None:
    """Train what is missing, in as many processes as asked for, which take one training after another."""
    models = json.loads((args.work / "models.json").read_text())
    images, rows = args.work / "images.pt", args.work / "rows.csv"
    if not images.exists():
        torch.save({n: (s.images, s.labels) for n, s in splits(open_setup(configured(args, 0)).data).items()}, images)
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
            given.add(new[0])
            asked.put(new.pop(0))
            under_way += 1
        if not under_way:
            break
        row = told.get()
        if row is None:
            raise SystemExit("a training failed; its traceback stands above")
        under_way -= 1
        append_row(rows, row)
        print(*row.values(), flush=True)
    for worker in workers:
        worker.kill()


def work(args: argparse.Namespace, models: list[dict[str, Any]], asked: Any, told: Any) -> None:
    """One process: opens the network once, then trains and scores whatever it is asked for."""
    torch.set_num_threads(1)
    try:
        bench = given_images(args)
        device = str(torch_device(args.device))
        data, found = on_device(bench.data, device), {m["model"]: m for m in models}
        while True:
            job: Job = asked.get()
            told.put(trained(bench, data, job, with_weights(bench, found[job.model], args.work), device))
    # The others wait for its answer.
    except Exception:
        told.put(None)
        raise


def trained(bench: Setup, data: Data, job: Job, model: nn.Module, device: str) -> dict[str, Any]:
    """The row of one training."""
    started, on = time.perf_counter(), device
    recipe = Recipe(epochs=job.epochs, lr=job.lr, seed=job.seed, batch_size=BATCH, compute_device=device)
    if device.startswith("cuda"):
        train_graphed(model, splits(data)["train"], recipe, bench.task, bench.baseline.module)
        on = torch.cuda.get_device_name()
    else:
        train(model, data, recipe, task=bench.task, teacher=bench.baseline.module)
    return {
        "model": job.model, "epochs": job.epochs, "lr": job.lr, "seed": job.seed,
        "validation": evaluate(model, data.validation, bench.task, device),
        "test": evaluate(model, data.test, bench.task, device) if job.test else "",
        "seconds": round(time.perf_counter() - started, 1), "device": on,
    }  # fmt: skip


def given_images(args: argparse.Namespace) -> Setup:
    """The network with the images that `train_all` has decoded."""
    config = configured(args, 0)
    loaded = load_model(config.model, weights=config.weights, seed=config.seed)
    kept: Mapping[str, tuple[Tensor, Tensor]] = torch.load(args.work / "images.pt", weights_only=True)
    sets = {
        name: ImageSet(*pair, loaded.input, **({"shift": 4, "flips": True} if name == "train" else {}))
        for name, pair in kept.items()
    }
    data = Data(config.data, **{n: loader(s, n) for n, s in sets.items()}, kind="class")
    return open_setup(config, given=Given(loaded, data))


def splits(data: Data) -> dict[str, Any]:
    return {name: getattr(data, name).dataset for name in ("train", "validation", "test")}


def loader(images: ImageSet, name: str) -> DataLoader[Any]:
    """Batches of a split, shuffled for training."""
    training = name == "train"
    return DataLoader(
        images, BATCH if training else 2000, shuffle=training, drop_last=training, generator=torch.Generator(),
        collate_fn=lambda batch: batch,
    )  # fmt: skip


def on_device(data: Data, device: str) -> Data:
    """The same images, held where the training is."""
    moved = {
        n: ImageSet(s.images.to(device), s.labels.to(device), s.input_spec, shift=s.shift, flips=s.flips)
        for n, s in splits(data).items()
    }
    return replace(data, **{n: loader(s, n) for n, s in moved.items()})


def with_weights(bench: Setup, entry: Mapping[str, Any], folder: Path) -> nn.Module:
    """A model of models.json with its inherited weights."""
    model = rebuilt(bench, str(entry["structure"]))
    model.load_state_dict(load_file(folder / f"{entry['model']}.safetensors"))
    return model


def add_latencies(args: argparse.Namespace) -> None:
    """Time what stands for each tool beside the baseline, all in turns; weights do not matter for that."""
    models, bench = json.loads((args.work / "models.json").read_text()), open_setup(configured(args, 0))
    wanted = chosen_runs(models, read_rows(args.work / "rows.csv"))
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
