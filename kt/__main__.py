"""Make trained networks smaller: any of PyTorch's, or those of the paper's family.

kt compress module:factory weights.safetensors -o smaller.safetensors --images folder
kt train --images digits -o network.safetensors
kt translate network.safetensors -o small.safetensors --images digits
"""

import argparse
import time

import torch

from kt import single
from kt.images import IMAGE_SETS, ImageSet
from kt.networks.blocks import Network, parameter_count
from kt.networks.cost import multiply_adds
from kt.real.command import add as add_compress
from kt.run.arguments import Parser, output, place, seed, whole
from kt.run.files import check_output
from kt.run.guard import guard
from kt.translators import own_images
from kt.translators.refine import MOST_STEPS


def main() -> None:
    with guard():
        options = _parsed()
        options.run(options)


def _parsed() -> argparse.Namespace:
    """What the command line asks for, and the function that does it, as `run`."""
    parser = Parser(prog="kt", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="command")
    sets = list(IMAGE_SETS)

    command = commands.add_parser(
        "train", help="train a network with a large block, to have one to compress"
    )
    command.add_argument("-o", "--output", type=output, required=True, help="file to write")
    command.add_argument("--images", choices=sets, default="digits", help="set [%(default)s]")
    command.add_argument("--seed", type=seed, default=1, help="of everything random [%(default)s]")
    command.set_defaults(run=train)

    command = commands.add_parser(
        "translate",
        help="replace a network's large block by a small one",
        description="Read the weights of kt.Network('large') and write those of the same network "
        "with a translated block. The former and the latter block stay as they are.",
    )
    command.add_argument(
        "network", type=place, help="its weights: safetensors, or a state_dict saved by torch"
    )
    command.add_argument("-o", "--output", type=output, required=True, help="file to write")
    command.add_argument(
        "--translator",
        type=place,
        help="safetensors file of a translator [the one that comes with the package]",
    )
    command.add_argument(
        "--weights-alone",
        action="store_true",
        help="without a translator, from the network's weights alone",
    )
    command.add_argument(
        "--hidden",
        type=whole(1, MOST_STEPS),
        metavar="CHANNELS",
        help="hidden channels of the small block [the translator's own number]",
    )
    command.add_argument(
        "--images", choices=sets, help="also measure the accuracy on the test images of this set"
    )
    command.add_argument(
        "--refine",
        type=whole(1, MOST_STEPS),
        metavar="STEPS",
        help="refine the block in so many steps (200, say) on the translator's own images",
    )
    command.add_argument(
        "--refine-images",
        choices=sets,
        help="refine on the training images of this set instead; labels are not used",
    )
    command.add_argument("--force", action="store_true", help="write even onto a file that is read")
    command.set_defaults(run=translate)

    add_compress(commands)

    options = parser.parse_args()
    if getattr(options, "refine_images", None) and not options.refine:
        command.error("--refine-images needs --refine STEPS")
    if getattr(options, "weights_alone", False) and options.run is translate:
        if options.translator:
            command.error("--weights-alone accepts no --translator")
        if options.refine and not options.refine_images:
            command.error(
                "--weights-alone has refined on strokes already: --refine needs --refine-images"
            )
    return options


def train(options: argparse.Namespace) -> None:
    """Train one network, write it, and print its accuracy."""
    check_output(options.output, [single.PRETRAINED])
    shown, test = single.load_images(options.images)
    network = single.train_network(shown, options.seed)
    single.save_network(options.output, network)
    print(f"accuracy on the {len(test):,} test images of {options.images}: ", end="")
    print(f"{single.accuracy(network, test):.2f} %")
    print(f"written: {options.output}")


def translate(options: argparse.Namespace) -> None:
    """Translate one network's block, write the network, and print what changed."""
    file = options.translator or single.PRETRAINED
    check_output(options.output, [options.network, file], options.force)
    before = single.load_network(options.network)
    translator = None if options.weights_alone else single.load_translator(file)
    test = _images(options.images, 1, before)
    shown = _images(options.refine_images, 0, before)
    small = single.translate(
        before, translator, options.hidden, weights_alone=options.weights_alone
    )
    networks = {"before": before, "after": small}
    seconds = None
    if options.refine:
        shown = shown or (own_images(translator) if translator else None)
        start = time.perf_counter()
        networks["refined"] = single.refine(networks["after"], before, shown, options.refine)
        seconds = time.perf_counter() - start
    *_, written = networks.values()
    single.save_network(options.output, written)
    _compare(networks, test, seconds)
    if test:
        print(f"accuracy on the {len(test):,} test images of {options.images}")
    print(f"written: {options.output}")


def _images(name: str | None, split: int, network: Network) -> ImageSet | None:
    """The training (0) or test (1) images of a set, if one is named.

    Raises:
        KTError: they cannot be had, or the network does not read them.
    """
    if name is None:
        return None
    found = single.load_images(name)[split]
    single.require_set(found, network)
    return found


def _compare(networks: dict[str, Network], test: ImageSet | None, seconds: float | None) -> None:
    """Print a row for each network: its size, its cost and, on test images, its accuracy."""
    print(f"{'':10}{'parameters':>12}{'multiply-adds':>15}", end="")
    print(f"{'accuracy':>12}" if test else "")
    sizes = networks["before"].sizes
    image = torch.zeros(1, sizes.image_channels, sizes.image_size, sizes.image_size)
    for label, network in networks.items():
        products = multiply_adds(network, image)
        print(f"{label:10}{parameter_count(network):12,}{products:15,}", end="")
        print(f"{single.accuracy(network, test):10.2f} %" if test else "", end="")
        print(f"   in {seconds:.1f} s" if label == "refined" else "")


if __name__ == "__main__":
    main()
