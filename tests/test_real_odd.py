"""Networks written in odd ways: found, counted and made smaller, or left for the right reason."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.testing import assert_close

import kt
from kt.real import Schedule, alone, compress, files
from kt.real.blocks import find
from kt.real.graph import Graph, call
from kt.run.errors import KTError
from tests.test_real import few

ROWS, IMAGES = torch.randn(4, 6), torch.randn(4, 3, 12, 12)


class Odd(nn.Module):
    """Layers by name, and a function that says how they are called."""

    def __init__(self, how, **layers) -> None:
        super().__init__()
        self.how = how
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.how(self, x)


def mlp(how, width: int = 16, last: int | None = None, **more) -> nn.Module:
    """6 -> width -> 6 -> 3, and what else there is."""
    layers = {"a": nn.Linear(6, width), "b": nn.Linear(last or width, 6), "c": nn.Linear(6, 3)}
    return Odd(how, **layers, **more)


def looked_into(network, example):
    network = network.eval()
    blocks, left = find(network, Graph(network, example))
    return {block.into: block for block in blocks}, left


def both(network, example, keep=0.8, **options):
    """At full width, and made smaller."""
    torch.manual_seed(1)
    images = few(example)
    return (
        compress(network, example, share, images, schedule=Schedule(2), **options)
        for share in (1.0, keep)
    )


@pytest.mark.parametrize(
    ("network", "example"),
    [
        (mlp(lambda s, x: s.c(input=s.b(input=F.relu(input=s.a(input=x))))), ROWS),
        (mlp(lambda s, x: s.c(s.b(torch.sin(30 * s.a(x))))), ROWS),
        (mlp(lambda s, x: s.c(s.b(F.relu(s.a(x)) ** 2))), ROWS),
        (mlp(lambda s, x: s.c(s.b((h := s.a(x)).mul(torch.sigmoid(h))))), ROWS),
        (mlp(lambda s, x: s.c(s.b(F.relu(h := s.a(x)).view(h.size(0), -1)))), ROWS),
        (mlp(lambda s, x: s.c(s.b(F.relu(s.a(x)).reshape(x.size(0), -1)))), ROWS),
        (mlp(lambda s, x: s.c(s.b(F.relu(s.a(x)).reshape(shape=(x.shape[0], -1))))), ROWS),
    ],
)
def test_ways_of_calling_do_not_matter(network, example):
    assert "a" in looked_into(network, example)[0]
    smaller = compress(network, example, {"a": 9}, weights_alone=True)
    assert smaller.a.out_features == 9 and smaller(example).shape == (4, 3)


def test_sizes_of_other_axes_may_be_asked_for():
    def forward(s, x):
        h = F.relu(s.a(x))
        n, _, height, _ = h.shape
        h = F.interpolate(h, size=(height, x.shape[-1])) / n
        return s.b(F.interpolate(h, size=h.shape[2:]))

    maps = {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 3, 3)}
    assert "a" in looked_into(Odd(forward, **maps), IMAGES)[0]
    for asked in (lambda h: h.shape[1], lambda h: h.size(1), lambda h: h.size(-3)):
        network = Odd(lambda s, x, asked=asked: s.b((h := s.a(x)) / asked(h)), **maps)
        assert "a" not in looked_into(network, IMAGES)[0]
    network = Odd(lambda s, x: s.b((h := s.a(x)).view(h.shape)), **maps)
    assert "a" not in looked_into(network, IMAGES)[0]


@pytest.mark.parametrize(
    ("network", "example", "words"),
    [
        (mlp(lambda s, x: s.b(s.a(x).view(2, -1)), last=32), ROWS, "view"),
        (mlp(lambda s, x: s.b(s.a(x).view(torch.float32))), ROWS, "view"),
        (
            Odd(lambda s, x: s.b((h := s.a(x)) + h.mean((2, 3))), a=nn.Conv2d(3, 8, 3),
                b=nn.Conv2d(8, 3, 3)),
            torch.randn(5, 3, 7, 10), "combined with another value",
        ),
        (
            Odd(lambda s, x: s.b(s.u((h := s.p(s.a(x)))[0], h[1])), a=nn.Conv2d(3, 8, 3, padding=1),
                b=nn.Conv2d(8, 3, 3), p=nn.MaxPool2d(2, return_indices=True),
                u=nn.MaxUnpool2d(2)),
            IMAGES, "p gives more than one tensor",
        ),
        (
            Odd(lambda s, x: s.b(s.a(x).flatten(1)), a=nn.Conv2d(3, 170, 1),
                b=nn.Linear(170 * 144, 3)),
            IMAGES, "b reads 24,480 numbers at once",
        ),
    ],
)  # fmt: skip
def test_what_does_not_keep_channels_apart_is_left(network, example, words):
    assert words in looked_into(network, example)[1]["a"]


@pytest.mark.parametrize(
    ("layer", "example", "words"),
    [
        (nn.Conv3d(3, 3, 1), IMAGES[..., None], "a Conv3d, which is not translated"),
        (nn.ConvTranspose2d(3, 3, 1), IMAGES, "a ConvTranspose2d, which is not"),
        (parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), IMAGES, "a ParametrizedConv2d, which"),
        (type("Own", (nn.Conv2d,), {})(3, 3, 1), IMAGES, "a Own, which is not translated"),
    ],
)
def test_layers_of_other_kinds_are_named(layer, example, words):
    assert words in looked_into(Odd(lambda s, x: s.layer(x), layer=layer), example)[1]["layer"]


def test_a_layer_that_another_one_holds_too_is_left():
    class Opaque(nn.Module):
        def __init__(self, layer) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else self.layer(-x)

    network = mlp(lambda s, x: s.c(s.b(F.relu(s.a(x)))) + s.held(x).mean(1, keepdim=True))
    network.held = Opaque(network.a)
    blocks, left = looked_into(network, ROWS)
    assert left["a"] == "a is called 2 times" and set(blocks) == {"b"}


def test_hidden_channels_that_are_read_in_training_mode_are_left():
    def forward(s, x):
        y = s.c(s.b(h := F.relu(s.a(x))))
        return (y, s.beside(h)) if s.training else y

    network = mlp(forward, beside=nn.Linear(16, 3)).train()
    state = torch.get_rng_state()
    smaller = compress(network, ROWS, 0.9, weights_alone=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert smaller.kt_report.left["a"].startswith("in training mode: read by several layers")
    assert set(smaller.kt_report.blocks) == {"b"}
    assert [answer.shape for answer in smaller(ROWS)] == [(4, 3), (4, 3)]


@pytest.mark.parametrize("how", [F.relu_, lambda h: h.relu_()])
def test_least_squares_sees_what_is_done_in_place(how):
    """Whose outcome the network does not name: the second map reads the tensor all the same."""

    def forward(s, x):
        how(h := s.a(x))
        return s.c(s.b(h))

    network = mlp(forward)
    named = mlp(lambda s, x: s.c(s.b(F.relu(s.a(x)))))
    named.load_state_dict(network.state_dict())
    images = few(ROWS, 200)
    ours, theirs = (
        compress(n, ROWS, {"a": 8}, images, schedule=Schedule(0)) for n in (network, named)
    )
    assert_close(ours.state_dict(), theirs.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["in order", "by name"])
def test_inputs_of_any_number_and_name(kind):
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    class InOrder(Many):
        def forward(self, first, *rest, scale=1.0):
            return self.b(F.relu(self.a(first + rest[0] * scale + rest[1])))

    class ByName(Many):
        def forward(self, **named):
            return {"out": [self.b(F.relu(self.a(named["p"] + named["q"]["r"][1])))]}

    def made(rows):
        one, two, three = rows
        return rows if kind == "in order" else {"p": one, "q": {"r": [two, three]}}

    network = InOrder() if kind == "in order" else ByName()
    example, images = (made([torch.randn(n, 6) for _ in range(3)]) for n in (4, 60))
    images = tuple(images) if kind == "in order" else images
    smaller = compress(network, example, 0.8, images, schedule=Schedule(2))
    assert smaller.a.out_features < 16
    assert 0 <= smaller.kt_report.agreement[1] <= 100


def test_a_batch_norm_over_places_is_none_of_the_maps():
    network = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(),
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3),
    )  # fmt: skip
    example = torch.randn(4, 16, 6)
    blocks, left = looked_into(network, example)
    assert "normalises over another axis" in left["0"] and blocks["3"].norm is None
    full, smaller = both(network, example)
    assert_close(full(example), network.eval()(example), atol=0, rtol=0)
    assert smaller(example).shape == (4, 16, 3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MultiheadAttention(8, 2, batch_first=True),
        nn.LSTM(8, 8, batch_first=True),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        nn.ConvTranspose1d(5, 5, 1),
    ],
)
def test_all_products_count(layer):
    def forward(s, x):
        y = s.layer(x, x, x) if isinstance(s.layer, nn.MultiheadAttention) else s.layer(x)
        y = y[0] if isinstance(s.layer, nn.MultiheadAttention | nn.LSTM) else y
        return s.b(F.gelu(s.a(y)))

    network = Odd(forward, layer=layer, a=nn.Linear(8, 64), b=nn.Linear(64, 8))
    example = torch.randn(4, 5, 8)
    _, smaller = both(network, example, keep=0.7)
    weights = sum(p.numel() for p in layer.parameters() if p.ndim > 1)
    places = 8 if isinstance(layer, nn.ConvTranspose1d) else 5
    attention = 0 if isinstance(layer, nn.LSTM | nn.ConvTranspose1d) else 2 * 5 * 5 * 8
    whole = places * weights + attention + 5 * 2 * 8 * 64
    before, after = smaller.kt_report.multiply_adds
    assert before == whole and 0.6 * whole < after <= 0.7 * whole


@pytest.mark.parametrize("ratios", ["harm", "even"])
def test_a_share_of_the_parameters_is_one_of_all(ratios):
    network = nn.Sequential(
        nn.Embedding(50, 6), nn.Linear(6, 32, bias=False), nn.ReLU(), nn.Linear(32, 6, bias=False)
    )
    example = torch.randint(50, (4, 7))
    network, smaller = both(network, example, 0.8, of="parameters", ratios=ratios)
    before, after = smaller.kt_report.parameters
    assert before == 300 + 2 * 192 == sum(p.numel() for p in network.parameters())
    assert 0.75 * before < after <= 0.8 * before


def test_wrapped_and_scripted_networks_are_refused():
    inner = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    for network, words in (
        (nn.DataParallel(inner), r"wrapped in DataParallel: pass model\.module"),
        (torch.jit.script(inner), "model is scripted"),
        (nn.Sequential(torch.jit.script(nn.Linear(6, 6)), inner), "0 is scripted"),
    ):
        with pytest.raises(KTError, match=words):
            compress(network, ROWS)
    Wrapper = type("OptimizedModule", (nn.Module,), {})
    with pytest.raises(KTError, match=r"pass model\._orig_mod"):
        compress(Wrapper(), ROWS)


def test_a_network_of_one_answer_is_saved(tmp_path):
    """Its bias is one number, of which any stride is contiguous."""

    def made():
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

    smaller = compress(made(), ROWS, 0.7, few(ROWS), schedule=Schedule(2))
    files.save(smaller, tmp_path / "small.safetensors")
    again = kt.load(made, tmp_path / "small.safetensors")
    assert_close(call(again, ROWS), call(smaller, ROWS), atol=0, rtol=0)


def test_moments_from_noise_are_added_up_as_they_come(monkeypatch):
    """Those of wide layers hold hundreds of millions of numbers: never many at once."""
    seen, most = [], 0
    gather = alone.gather

    def watched(*given):
        nonlocal most
        moments = gather(*given)
        seen.append(weakref.ref(moments))
        most = max(most, sum(one() is not None for one in seen))
        return moments

    monkeypatch.setattr(alone, "gather", watched)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    compress(network, ROWS, {"0": 8}, weights_alone=True)
    assert len(seen) > 10 and most <= 3


def test_a_layer_that_asks_for_its_version_is_loaded(tmp_path):
    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state, prefix, metadata, *more):
            assert metadata["version"] == 2
            super()._load_from_state_dict(state, prefix, metadata, *more)

    def made():
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3), Versioned(3, 3))

    files.save(compress(made(), ROWS, {"0": 8}, weights_alone=True), tmp_path / "s.safetensors")
    assert kt.load(made, tmp_path / "s.safetensors")[0].out_features == 8


class Flattened(nn.Module):
    """Two convolutions whose maps are flattened by `view`, which wants them channels first."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 6, 3)
        self.head = nn.Linear(6 * 8 * 8, 4)

    def forward(self, x):
        x = self.out(F.relu(self.into(x)))
        return self.head(x.view(x.size(0), -1))


@pytest.mark.parametrize("vary", [True, False])
def test_a_network_that_flattens_maps_by_view_takes_its_steps(vary):
    example = torch.randn(2, 3, 12, 12)
    _, smaller = both(Flattened(), example, 0.5, vary=vary)
    assert smaller.into.out_channels < 12
