"""One meaning an option name: whatever command has it, an option takes the same kind of value and says the same."""

import re

import pytest
import typer.main

from ghostsearch.cli.main import app

SEVERAL = {
    "--calibrate": "images for weights or for int8",
    "--calibration-images": "images for weights or for int8",
    "--count": "answers of solve, architectures of audit",
    "--epochs": "of the training that the command is for",
    "--out": "what the command writes",
    "--task": "export has a default of its own",
    "--time-limit": "per trial and device in a search",
}
"""Names whose help says what they are about in each command."""


def options():
    """Help, whether it is a switch, and the type of its value, for each option name and command that has it."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        for parameter in command.params:
            long = [flag for flag in parameter.opts if flag.startswith("--")]
            if long:
                said = parameter.help.replace("; repeatable.", ".").removesuffix(" Required.")
                found.setdefault(long[-1], {})[name] = (
                    said,
                    parameter.is_flag,
                    parameter.is_flag or kind(parameter),
                )
    return found


def kind(parameter):
    return {"Path": "str"}.get(parameter.bare_type.__name__, parameter.bare_type.__name__)


def test_an_option_name_has_one_meaning():
    found = options()
    assert len(found) > 60
    assert {len({use[1:] for use in uses.values()}) for uses in found.values()} == {1}
    several = {name for name, uses in found.items() if len({use[0] for use in uses.values()}) > 1}
    assert several == set(SEVERAL)


def test_the_help_names_every_task():
    from ghostsearch.training.tasks.table import TASKS

    (told,) = {uses["search"][0] for name, uses in options().items() if name == "--task"}
    assert all(f"{name}, " in told for name in TASKS)


def test_no_two_names_have_one_meaning():
    first = [next(iter(uses.values()))[0] for uses in options().values()]
    assert sorted(first) == sorted(set(first))


def test_what_must_be_given_and_what_follows_from_the_model_show_no_default():
    commands = typer.main.get_command(app).commands
    told = {(name, p.name): (p.help, p.show_default) for name, c in commands.items() for p in c.params}
    assert all(told[name, "data"][0].endswith("Required.") for name in ("finetune", "train"))
    assert not any(told[name, "data"][1] for name in ("finetune", "train"))
    assert not told["search", "space"][1]
    assert told["search", "data"][1] == "digits"


@pytest.mark.parametrize(
    ("told", "arguments"),
    [
        ("error: --trials: must be a whole number, got 'lots'", ["search", "--trials", "lots"]),
        ("error: --fit-memory: must be a number, got 'lots'", ["convert", "m", "--fit-memory", "lots"]),
        ("error: --time-limit: must be a finite number, got inf", ["measure", "m", "--time-limit", "inf"]),
        ("error: --seed: must be less than 2147483648", ["convert", "m", "--seed", "99999999999999999999"]),
        ("--count': must be a whole number, got 'lots'", ["solve", "study", "--count", "lots"]),
        ("--count': must be greater than or equal to 1, got '0'", ["solve", "study", "--count=0"]),
        ("(Possible options: --out)", ["search", "--ouu", "there"]),
        ("Missing argument 'MODEL'; 'ghostsearch convert --help' explains", ["convert"]),
        ("No such command 'serch'", ["serch"]),
    ],
)  # fmt: skip
def test_a_slip_of_the_fingers_is_one_line(refused, told, arguments):
    assert len(refused(told, *arguments).err.splitlines()) == 1


@pytest.mark.parametrize(
    ("told", "arguments"),
    [
        ("--include is for --choice;", ["convert", "NET", "--architecture", "a.json", "--include", "*"]),
        ("--exclude is for --choice;", ["convert", "NET", "--architecture", "a.json", "--exclude", "conv*"]),
        ("add --calibrate DATA", ["convert", "NET", "--choice", "ghost", "--calibration-images", "5"]),
        ("add --calibrate DATA", ["convert", "NET", "--choice", "ghost", "--fit-memory", "2"]),
        ("add --calibrate DATA", ["convert", "NET", "--choice", "ghost", "--distill-steps", "5"]),
        ("--ray-address is for --engine ray;", ["search", "--ray-address", "auto"]),
        ("--resources is for --engine ray;", ["search", "--resources", "cpu=2"]),
        ("--out is for --gallery;", ["inspect", "NET", "--out", "there"]),
        ("No such option: --distillation", ["train", "NET", "--data", "digits", "--distillation", "0.5"]),
        ("No such option: --train-images", ["check", "NET", "--max-params", "1M", "--train-images", "8"]),
    ],
)  # fmt: skip
def test_an_option_that_would_have_no_effect_is_refused(refused, tmp_path, told, arguments):
    refused(told, *[{"NET": "ghostsearch:digits_cnn"}.get(word, word) for word in arguments], cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_arguments_show_the_help(ghostsearch):
    shown = ghostsearch()
    assert shown.code == 0
    assert "convert" in shown.out


@pytest.mark.parametrize(
    ("shell", "found"),
    [
        ("bash: ghostsearch inspect ghostsearch : dig", "digits_cnn"),
        ("bash: ghostsearch inspect ghostsearch :", "digits_cnn"),
        ("bash: ghostsearch measure ghostsearch : digits_cnn --device torch :", "cpu"),
        ("bash: ghostsearch inspect 'ghostsearch:dig", "ghostsearch:digits_cnn"),
        ("bash: ghostsearch inspect gho", "ghostsearch:digits_cnn"),
        ("bash: ghostsearch search --spa", "--space"),
        ("zsh: ghostsearch inspect ghostsearch:dig", r""":(("ghostsearch\\:digits_cnn"))'"""),
        ("fish: ghostsearch inspect ghostsearch:dig", "ghostsearch:digits_cnn"),
    ],
)  # fmt: skip
def test_names_complete_as_each_shell_takes_words_apart(ghostsearch, monkeypatch, shell, found):
    name, words = shell.split(": ", 1)
    monkeypatch.setenv("_GHOSTSEARCH_COMPLETE", f"complete_{name}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("COMP_WORDS", words.replace(" ", "\n"))
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    shown = ghostsearch()
    assert shown.code == 0
    assert found in re.split(r"[\n\t ]", shown.out), shown
