"""`kt compress module:factory weights -o smaller.safetensors`."""

import argparse
import contextlib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import torch
from torch import nn

from kt.real import files
from kt.real.graph import reason
from kt.real.steps import Schedule
from kt.real.translate import IMAGENET, Report, compress
from kt.run import memory
from kt.run.arguments import output, place, seed, whole
from kt.run.errors import KTError
from kt.run.files import check_output, save_text

MOST = 10**6
"""Of steps, and what widths may be multiples of."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add `compress` to a program's commands; its `run` takes the parsed options."""
    command = commands.add_parser(
        "compress",
        help="make a trained PyTorch network smaller, without labels, without training it again",
        description="Reads a network's weights, narrows its blocks' hidden layers, and writes "
        "the weights of the smaller network; kt.load(factory, file) makes it of them again.",
    )
    command.add_argument(
        "factory", help="module:function that makes the network, without arguments"
    )
    command.add_argument("weights", type=place, help="safetensors or torch.save of its weights")
    command.add_argument("-o", "--output", type=output, required=True, help="file to write")
    command.add_argument(
        "--input",
        type=shape,
        default=(1, 3, 224, 224),
        metavar="N,C,H,W",
        help="size of an input [1,3,224,224]",
    )
    command.add_argument(
        "--keep", type=float, default=0.5, help="share of the multiply-adds to keep [%(default)s]"
    )
    command.add_argument(
        "--of",
        choices=("multiply-adds", "parameters"),
        default="multiply-adds",
        help="what --keep is a share of [%(default)s]",
    )
    command.add_argument(
        "--images", type=place, help="folder of unlabelled images; without, they are drawn"
    )
    command.add_argument(
        "--weights-alone", action="store_true", help="read the weights alone: nothing is shown"
    )
    for name, values in zip(("mean", "deviation"), IMAGENET, strict=True):
        command.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            default=values,
            metavar=("R", "G", "B"),
            help=f"by which the network's images are normalised [{' '.join(map(str, values))}]",
        )
    command.add_argument(
        "--round-to",
        type=whole(1, MOST),
        default=1,
        metavar="N",
        help="make widths multiples of N [1]",
    )
    command.add_argument(
        "--steps",
        type=whole(0, MOST),
        help=f"of bringing the answers to the images back [{Schedule.steps}]",
    )
    command.add_argument("--seed", type=seed, default=0, help="of everything random [%(default)s]")
    command.add_argument("--onnx", type=output, help="also write the network as ONNX")
    command.add_argument("--report", type=output, help="also write the report, as Markdown")
    command.add_argument("--force", action="store_true", help="write even onto the file read")
    command.set_defaults(run=run)


def shape(text: str) -> tuple[int, ...]:
    """The numbers of "1,3,32,32"."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if min(numbers, default=0) < 1:
        wanted = "whole numbers above 0 with commas between, 1,3,32,32 say"
        raise argparse.ArgumentTypeError(f"got {text!r}; accepts {wanted}")
    memory.require(4.0 * math.prod(numbers), f"an input of {text}", "make it smaller")
    return numbers


def run(options: argparse.Namespace) -> None:
    """Compress a network as the command line asks.

    Raises:
        KTError: something that the user can put right.
    """
    stdout = sys.stdout  # a user's module may set another, or none
    outputs = [path for path in (options.output, options.onnx, options.report) if path]
    for path in outputs:
        check_output(path, filter(None, [options.weights, options.images]), options.force)
    for one, other in permutations(map(Path, map(os.path.realpath, outputs)), 2):
        if other.is_relative_to(one):
            raise KTError("--output, --onnx and --report must be different files, none in another")
    if options.weights_alone and (options.images or options.steps):
        raise KTError("--weights-alone accepts neither --images nor --steps")
    if not all(0 < number < math.inf for number in options.deviation):
        raise KTError("--deviation: each must be above 0 and finite")
    if not all(map(math.isfinite, options.mean)):
        raise KTError("--mean: each must be finite")
    factory = made_by(options.factory)
    for path in outputs:
        check_output(path, _source_of(factory), options.force)
    network = files.load(factory, options.weights)
    kinds = (p.dtype for p in network.parameters() if p.is_floating_point())
    example = torch.randn(options.input, generator=torch.Generator().manual_seed(options.seed))
    smaller = compress(
        network,
        example.to(next(kinds, example.dtype)),
        options.keep,
        options.images,
        weights_alone=options.weights_alone,
        of=options.of,
        round_to=options.round_to,
        schedule=None if options.steps is None else Schedule(options.steps),
        normalise=(options.mean, options.deviation),
        seed=options.seed,
        progress=show if sys.stderr.isatty() else None,
    )
    files.save(smaller, options.output)
    lines = described(smaller.kt_report)
    if options.onnx:
        worst = files.export_onnx(smaller.float(), example, options.onnx)
        lines.append("")
        lines.append(f"ONNX Runtime's answers differ by {worst:.1e} of the largest answer at most.")
    if options.report:
        save_text(options.report, "\n".join(lines) + "\n")
    stdout.write("\n".join(lines) + "\n")


def made_by(name: str) -> Callable[[], nn.Module]:
    """The function that `module:function` names; modules of the working folder are found too.

    Raises:
        KTError: there is none.
    """
    module, _, function = name.partition(":")
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    try:
        return getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # a module's code does what it likes
        why = "it ends the program" if isinstance(error, SystemExit) else reason(error)
        raise KTError(f"{name[:100]!r} is no module:function ({why})") from error
    finally:
        os.chdir(here)  # files are named from there


def _source_of(factory: Callable) -> list[Path]:
    """The file of a factory's code, if there is one."""
    with contextlib.suppress(TypeError):
        return [Path(inspect.getsourcefile(factory) or os.devnull)]
    return []


def described(report: Report) -> list[str]:
    """A report as lines of Markdown."""
    rows = [
        ("parameters", *(f"{number:,}" for number in report.parameters)),
        ("multiply-adds", *(f"{number:,}" for number in report.multiply_adds)),
        ("milliseconds", *(f"{number:.2f}" for number in report.latency)),
    ]
    shown = f"From the weights alone, {report.seconds:.0f} s."
    if report.agreement:
        source = "drawn" if report.made else "unlabelled"
        fitted, moved = report.agreement
        steps = f"{moved:.1f} % after {report.steps} steps" if report.steps else "no step was taken"
        shown = (
            f"Agreement with the original on a tenth of the images, held out: {fitted:.1f} % after "
            f"least squares, {steps}; {report.images:,} images ({source}), no label, "
            f"{report.seconds:.0f} s."
        )
    return [
        "| | before | after |",
        "| --- | ---: | ---: |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        shown,
        "",
        "| block | channels before | after |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {before} | {after} |" for name, (before, after) in report.blocks.items()),
        "",
        "Layers whose outputs stay as wide as they were:",
        "",
        *(f"- {name}: {reason}" for name, reason in report.left.items()),
    ]


def show(what: str, done: int, total: int) -> None:
    """One line of progress on the terminal, overwritten by the next."""
    bar = "#" * (30 * done // total)
    sys.stderr.write(f"\r{what:16}[{bar:30}] {done}/{total}" + ("\n" if done == total else ""))
    sys.stderr.flush()
