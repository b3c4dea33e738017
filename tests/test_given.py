"""Networks and arguments that users give: taken as they are meant, or refused in one true line."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import kt
from kt import single
from kt.images import ImageSet
from kt.networks.blocks import Sizes, weights
from kt.real import Schedule
from kt.run import memory
from kt.run.errors import KTError
from kt.translators import save_translator
from kt.translators.merge import Merge, MergeConfig

pytestmark = pytest.mark.usefixtures("few_strokes")
FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PRECISIONS = [torch.float16, torch.bfloat16, torch.float64]


def made(kind="large", **sizes):
    torch.manual_seed(0)
    network = kt.Network(kind, Sizes(**sizes))
    network(torch.rand(8, network.sizes.image_channels, *[network.sizes.image_size] * 2))
    return network.eval()


@pytest.fixture(scope="module")
def translator():
    torch.manual_seed(1)
    return Merge(MergeConfig(layers=1, hidden_size=8, prototypes=8)).eval()


@contextlib.contextmanager
def refused(words=""):
    with pytest.raises(KTError, match=words) as caught:
        yield
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def uses(translator):
    """All that is done with a network, the small one made of a whole one."""
    small = kt.translate(made(), translator)
    data = ImageSet(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.arange(4))
    return {
        "translated": lambda network: kt.translate(network, translator),
        "from the weights": lambda network: kt.translate(network, weights_alone=True),
        "refined": lambda network: kt.refine(small, network, data, 1),
        "refined on strokes": lambda network: kt.refine(small, network, None, 1),
        "measured": lambda network: kt.accuracy(network, data),
        "saved": lambda network: kt.save_network("/dev/null/x", network),
    }


USES = ["translated", "from the weights", "refined", "refined on strokes", "measured", "saved"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_of_any_precision_gives_one_of_the_same(precision, translator):
    network = made().to(precision)
    single_one = copy.deepcopy(network).float()
    data = ImageSet(torch.randint(256, (8, 28, 28)).to(torch.uint8), torch.arange(8))
    for make in (
        lambda large: kt.translate(large, translator),
        lambda large: kt.translate(large, weights_alone=True),
        lambda large: kt.refine(kt.translate(large, translator), large, data, 2),
    ):
        ours, theirs = weights(make(network)), weights(make(single_one))
        assert {t.dtype for t in ours.values()} == {precision}
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name].float(), tensor, rtol=0.02, atol=0.05)
    assert kt.accuracy(network, data) == kt.accuracy(single_one, data)


@contextlib.contextmanager
def double_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "around",
    [
        double_by_default,
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu"),
        lambda: torch.device("meta"),
    ],
)
def test_what_a_user_has_set_in_pytorch_changes_nothing_and_stays(around, translator):
    network = made()
    layers = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    example, shown = torch.randn(2, 6), torch.randn(20, 6)

    def all_of_it():
        small = kt.translate(network, translator)
        compressed = kt.compress(layers, example, 0.6, shown, schedule=Schedule(2))
        alone = kt.translate(network, weights_alone=True)
        return [*map(weights, (small, alone, kt.refine(small, network, None, 2), compressed))]

    expected = all_of_it()
    with around():
        if around is torch.inference_mode:
            network, layers = copy.deepcopy(network), copy.deepcopy(layers)
        before = torch.get_default_dtype(), torch.is_grad_enabled()
        found = all_of_it() if torch.get_default_device().type == "cpu" else expected
        if found is expected:  # a user's own network must be called where it is
            found = [weights(kt.translate(network, weights_alone=True))]
            expected = expected[1:2]
        assert before == (torch.get_default_dtype(), torch.is_grad_enabled())
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


BROKEN = {
    "block.bn1.running_var holds -1": (lambda n: n.block.bn1.running_var.fill_(-1), "a negative"),
    "infinite variance": (lambda n: n.block.bn2.running_var.fill_(torch.inf), "not finite"),
    "infinite mean": (lambda n: n.former.bn.running_mean.fill_(torch.inf), "not finite"),
    "infinite bias": (lambda n: n.latter.fc.bias.data.fill_(-torch.inf), "not finite"),
    "no number": (lambda n: n.block.conv2.weight.data.fill_(torch.nan), "not finite"),
    "too large": (lambda n: [p.data.mul_(1e20) for p in n.parameters()], "answers are not finite"),
    "without numbers": (lambda n: n.to("meta"), "is on the device meta"),
    "of two precisions": (lambda n: n.former.half(), "make it one"),
    "of whole numbers": (
        lambda n: setattr(n.block.bn1, "running_var", torch.ones(6).int()),
        "no plain weights",
    ),
    "of another form": (lambda n: setattr(n.block, "conv1", nn.Conv2d(6, 5, 3)), "has shape"),
    "without a layer": (lambda n: setattr(n.former, "bn", nn.Identity()), "has no former.bn"),
    "with another layer": (lambda n: setattr(n, "head", nn.Linear(2, 2)), "unknown head"),
    "of an unknown kind": (lambda n: setattr(n, "kind", "huge"), "does not say its kind"),
    "without sizes": (lambda n: setattr(n, "sizes", None), "does not say its kind and its sizes"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_network_is_refused_and_said_to_be_the_given_one(how, use, translator):
    network = made()
    damage, words = BROKEN[how]
    damage(network)
    with refused(f"^(the network|large)\\b.*{words}"):
        uses(translator)[use](network)


def test_double_numbers_beyond_single_precision_are_refused(translator):
    network = made().double()
    network.latter.fc.bias.data.fill_(1e300)
    with refused("the network holds numbers that are not finite"):
        kt.translate(network, translator)


def test_a_small_network_that_half_precision_does_not_hold_is_refused(translator, monkeypatch):
    def huge(start, *given):
        return {name: tensor * 1e6 for name, tensor in start.items()}

    monkeypatch.setattr("kt.translators.refine.minimise", huge)
    network = made().half()
    with refused("the refined network holds numbers that are not finite"):
        kt.refine(kt.translate(network, translator), network, None, 1)


@pytest.mark.parametrize(
    ("small", "large", "words"),
    [
        (made("conv", channels=8, hidden=4), made(), "channels 8 and 6"),
        (made("conv"), made(image_size=32), "image_size 28 and 32"),
        (made("conv", image_channels=3), made(), "image_channels 3 and 1"),
        (made("conv", kernel=5), made(), "kernel 5 and 3"),
        (made(), made(), "not 'large'"),
        (made("mlp"), made(), "not 'mlp'"),
        (made("conv"), made("conv"), "large has a 'conv' block"),
    ],
)
def test_networks_that_do_not_belong_together_are_refused(small, large, words):
    for data in (None, ImageSet(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.arange(4))):
        with refused(words):
            kt.refine(small, large, data, 1)


@given(
    sizes=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("channels", "hidden", "kernel", "image_channels", "image_size"),
            st.one_of(
                st.integers(-2, 12), st.sampled_from([True, 1.5, "3", None, 10**9, [3], 10**400])
            ),
        ),
    )
)
@FEW
def test_networks_of_any_sizes_work_or_are_refused(sizes):
    with contextlib.suppress(KTError):
        network = kt.Network(sizes=Sizes(**sizes)).eval()
        shape = 2, network.sizes.image_channels, *[network.sizes.image_size] * 2
        assert network(torch.rand(shape)).shape == (2, 10)
        small = kt.translate(network, hidden=1, weights_alone=True)
        assert small(torch.rand(shape)).isfinite().all()


def test_strokes_that_no_memory_holds_are_refused_before_any_work(monkeypatch):
    network = made(image_size=64)
    monkeypatch.setattr(memory, "free", lambda: 2**20)
    monkeypatch.setattr("kt.translators.strokes.misfit", lambda *given: pytest.fail("began"))
    with refused("drawing 64 images of 64 x 64 pixels needs .* GiB of memory"):
        kt.translate(network, weights_alone=True)
    with refused("refining in 100,000 steps needs .* GiB of memory"):
        images = ImageSet(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.arange(4))
        kt.refine(made("conv"), made(), images, 100_000)


NO_NUMBER = [1.5, "3", [3], None, True, float("nan"), 10**400, -1, 2**64]


@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda value: str(value)[:8])
def test_what_is_no_number_is_refused_by_name(value, translator, tmp_path):
    network, layers = made(), nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    data = ImageSet(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.arange(4))
    small, example = made("conv"), torch.randn(2, 6)
    asked = {
        "seed": [
            lambda: kt.translate(network, weights_alone=True, seed=value),
            lambda: kt.train_network(data, value),
            lambda: kt.compress(layers, example, seed=value),
        ],
        "steps": [lambda: kt.refine(small, network, data, value), lambda: Schedule(value)],
        "batch": [lambda: Schedule(2, value)] * (value != 2**64),
        "warmup": [lambda: Schedule(2, 64, None, value)] * (value != 2**64),
        "round_to": [lambda: kt.compress(layers, example, round_to=value)] * (value != 2**64),
        "positions": [lambda: kt.compress(layers, example, positions=value)] * (value != 2**64),
        "path|a name": [lambda: kt.load(nn.ReLU, value), lambda: kt.load_network(value)]
        * (value != "3"),
    }
    if value is not None:
        asked["hidden"] = [
            lambda: kt.translate(network, hidden=value, weights_alone=True),
            lambda: kt.translate(network, translator, value),
        ]
        asked["schedule"] = [lambda: kt.compress(layers, example, schedule=value)]
        asked["progress"] = [lambda: kt.compress(layers, example, progress=value)]
        asked["stride"] = [lambda: Schedule(2, 64, value)] * (value not in (1.5, 2**64))
    if value is not True:
        asked["weights_alone"] = [lambda: kt.translate(network, weights_alone=value)]
        asked["vary"] = [lambda: kt.compress(layers, example, vary=value)]
    for name, calls in asked.items():
        for ask in calls:
            if name in ("batch", "round_to", "positions", "warmup") and value == 10**400:
                continue  # more than there are is as many as there are
            with refused(f"({name}).* accepts "):
                ask()


@pytest.mark.parametrize(
    "value",
    [None, 3, "ab", ((1, 2, 3),), ((0, 0, 0), (1, 1, 0)), ((0, 0), (1, 1)), (("a",) * 3,) * 2],
)
def test_a_normalisation_that_is_none_is_refused(value):
    with refused("normalise is .* accepts three means"):
        kt.compress(nn.Sequential(nn.Linear(6, 3)), torch.randn(2, 6), normalise=value)


@pytest.mark.parametrize("name", [None, 3, ["digits"], "", "Digits"])
def test_an_image_set_that_is_none_is_refused(name):
    with refused("there is no image set"):
        kt.load_images(name)


def test_a_recipe_of_impossible_numbers_is_refused():
    data = ImageSet(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.arange(4))
    for change in ({"epochs": 0}, {"batch_size": 1}, {"lr": float("inf")}, {"flip": 1}):
        with refused(f"{next(iter(change))}: got .*; accepts"):
            kt.train_network(data, recipe=single.Recipe(**change))


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--images", "--refine-images"])
@pytest.mark.parametrize("sizes", [{"image_size": 20}, {"image_channels": 3}])
def test_images_of_other_networks_are_told_before_the_work(
    flag, sizes, tmp_path, monkeypatch, capsys
):
    from kt.__main__ import main

    monkeypatch.chdir(tmp_path)
    kt.save_network("n", made(**sizes))
    more = ["--refine", "2"] if flag == "--refine-images" else []
    command = ["kt", "translate", "n", "--weights-alone", "-o", "o", flag, "digits", *more]
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setattr(single, "translate", lambda *given, **named: pytest.fail("began"))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1 and not (tmp_path / "o").exists()
    assert "images are" in capsys.readouterr().err


def test_a_file_of_impossible_sizes_is_named(tmp_path):
    for change in (
        {"latter.fc.weight": torch.ones(10, 600)},
        {"former.conv.weight": torch.ones(6, 2, 3, 3)},
        {"former.conv.weight": torch.ones(6, 1, 4, 4)},
    ):
        torch.save(weights(made()) | change, tmp_path / "n.pt")
        with refused("n.pt (holds no network that is known here|does not hold what is needed)"):
            kt.load_network(tmp_path / "n.pt")


def test_a_translator_does_not_take_a_network_of_other_images(translator, tmp_path):
    save_translator(tmp_path / "t", translator)
    with refused("image"):
        kt.translate(made(image_size=64), kt.load_translator(tmp_path / "t"))


def test_numbers_of_numpy_are_numbers():
    network, layers = made(), nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    rows = torch.randn(20, 6)
    for ask in (
        lambda whole, real: kt.translate(
            network, hidden=whole(2), weights_alone=True, seed=whole(3)
        ),
        lambda whole, real: kt.compress(
            layers, rows[:2], real(0.5), rows, seed=whole(3), round_to=whole(2),
            schedule=Schedule(whole(2), whole(8), real(0.25)),
        ),
        lambda whole, real: kt.compress(
            layers, rows[:2], {"0": whole(5)}, rows, schedule=Schedule(0)
        ),
    ):  # fmt: skip
        plain, given = ask(int, float).state_dict(), ask(np.int64, np.float32).state_dict()
        assert all(torch.equal(given[name], tensor) for name, tensor in plain.items())


def test_a_network_is_not_saved_under_the_name_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KTError, match=r"models/ could not be written .*: name a file"):
        kt.save_network("models/", kt.Network())
    assert not list(tmp_path.iterdir())
