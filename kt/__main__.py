"""The command line: compress a trained network of this family with a trained translator.

python -m kt translate network.safetensors -o small.safetensors --images digits
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import torch

from kt import ensemble
from kt.images import IMAGE_SETS, ImageSet, load_images
from kt.networks.blocks import IMAGE_SIZE, Network, parameter_count, skeleton, weights
from kt.networks.cost import multiply_adds
from kt.networks.weights import part, prefixed, stack_of_one
from kt.run.errors import KTError
from kt.run.files import load_tensors, save_tensors
from kt.translators import compress, load_translator, own_images, refine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kt", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "translate",
        help="put a small block in the place of a network's large block",
        description="Reads the weights of a Network('large') (kt.networks.blocks) and writes those "
        "of the same network with a translated block: former and latter blocks stay as they are.",
    )
    command.add_argument("network", type=Path, help="safetensors file of the trained network")
    command.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    command.add_argument(
        "--translator",
        type=Path,
        default=Path("results/train/translator.safetensors"),
        help="safetensors file of a translator [%(default)s]",
    )
    command.add_argument(
        "--images",
        choices=list(IMAGE_SETS),
        help="also measure the accuracy on the test images of a set",
    )
    command.add_argument(
        "--refine",
        type=positive,
        metavar="STEPS",
        help="refine the block in so many steps (200, say), on the translator's own images",
    )
    command.add_argument(
        "--refine-images",
        choices=list(IMAGE_SETS),
        help="refine on the training images of a set, whose labels are not used",
    )
    command.set_defaults(run=translate)
    options = parser.parse_args()
    if options.refine_images and not options.refine:
        command.error("--refine-images needs --refine STEPS")
    try:
        options.run(options)
    except KTError as error:
        sys.exit(f"error: {error}")


def translate(options: argparse.Namespace) -> None:
    """Translate one network's block, write the network, and say what changed."""
    model = load_translator(options.translator)
    before = read_network(options.network)
    networks = {"before": before, "after": compress(model, before)}
    seconds = None
    if options.refine:
        if options.refine_images:
            shown, _ = load_images(options.refine_images, Path("data"))
        else:
            shown = own_images(model)
        start = time.perf_counter()
        networks["refined"] = refined(before, networks["after"], shown, options.refine)
        seconds = time.perf_counter() - start
    *_, written = networks.values()
    save_tensors(options.output, weights(written))
    print(f"{'':10}{'parameters':>12}{'multiply-adds':>15}", end="")
    test = load_images(options.images, Path("data"))[1] if options.images else None
    print(f"{'accuracy':>12}" if test else "")
    image = torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    for label, network in networks.items():
        products = multiply_adds(network, image)
        print(f"{label:10}{parameter_count(network):12,}{products:15,}", end="")
        print(f"{accuracy(network, test):10.2f} %" if test else "", end="")
        print(f"   in {seconds:.1f} s" if label == "refined" else "")
    if test:
        print(f"accuracy on the {len(test):,} test images of {options.images}")
    print(f"written: {options.output}")


def refined(large: Network, small: Network, images: ImageSet | None, steps: int) -> Network:
    """`small` with its block refined towards the outputs of `large`, by `kt.translators.refine`."""
    stacked, start = (stack_of_one(weights(network)) for network in (large, small))
    stacked |= prefixed("large", part(stacked, "block"))
    block = part(start, "block")
    block = refine.refine(small.kind, stacked, block, images, steps, seed=1)
    result = copy.deepcopy(small)
    result.block.load_state_dict({name: tensor[0] for name, tensor in block.items()})
    return result


def read_network(path: Path) -> Network:
    """The network of a file.

    Raises:
        KTError: it is missing, damaged, or holds something else.
    """
    stored = load_tensors(path)
    expected = weights(skeleton(Network))
    kept = {name: tensor for name, tensor in stored.items() if "num_batches" not in name}
    wrong = sorted(
        name
        for name in expected.keys() | kept.keys()
        if name not in kept or name not in expected or kept[name].shape != expected[name].shape
    )
    if wrong:
        raise KTError(
            f"{path} is no network that can be translated: {wrong[0]!r} is missing, unknown or of "
            "another shape than in kt.networks.blocks.Network('large')"
        )
    if not all(tensor.isfinite().all() for tensor in kept.values()):
        raise KTError(f"{path} holds numbers that are not finite")
    network = Network()
    network.load_state_dict(kept, strict=False)
    return network.eval()


def positive(text: str) -> int:
    """A whole number above zero, as an argument."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def accuracy(network: Network, images: ImageSet) -> float:
    """In percent."""
    stacked = stack_of_one(weights(network))
    block = part(stacked, "block")
    return ensemble.evaluate(network.kind, images, stacked, block).item()


if __name__ == "__main__":
    main()
