from dataclasses import replace

import pytest
import torch

from kt.ensemble import Compute
from kt.networks import symmetry
from kt.networks.blocks import BLOCKS, TARGETS, block_shapes, initial_weights, parameter_count
from kt.networks.cost import multiply_adds
from kt.networks.weights import part
from kt.run.errors import KTError
from kt.run.files import save_tensors
from kt.translators import load_translator, save_translator, translate
from kt.translators.attention import Attention, AttentionConfig, SelfAttention
from kt.translators.convolution import Convolution
from kt.translators.mixer import PAPER_SIZES, SIZES, Mixer, MixerConfig
from kt.translators.objectives import WeightObjective
from kt.translators.sequence import PIECE
from tests.rounding import assert_near

SMALL = MixerConfig(layers=2, hidden_size=16, sequence_dim=8, channel_dim=8)
OTHERS = [
    (Attention, AttentionConfig(layers=2, hidden_size=16, sequence_dim=8, channel_dim=8)),
    (Convolution, SMALL),
]
"""Translators that mix tokens in another way."""
MIXED = 9 + 2 * (72 + 8 + 16 + 8) + 16
"""Terms behind an output of `SMALL`: embedding, two layers, head."""


def large_blocks(seeds):
    return {f"large.{name}": t for name, t in initial_weights("large", seeds).items()}


@pytest.mark.parametrize(
    ("size", "count", "printed"),
    [
        ("small", 1_385_965, 1.32),
        ("base", 2_741_293, 2.61),
        ("large", 4_096_621, 3.90),
        ("wide", 4_316_605, 4.11),
    ],
)
def test_the_papers_sizes_have_their_counted_parameters(size, count, printed):
    model = Mixer(PAPER_SIZES[size])
    assert parameter_count(model) == count
    assert abs(count / 2**20 - printed) < 0.01


@pytest.mark.parametrize(
    ("target", "length"), [("conv", 36), ("conv_bias", 37), ("mlp", 18), ("attention", 16)]
)
def test_every_target_gets_weights_that_its_block_takes(target, length):
    model = Mixer(MixerConfig(layers=1, hidden_size=8, target=target))
    assert model.sequence_head[3].out_features == length
    large = {f"conv{i}.weight": torch.randn(5, 6, 6, 3, 3) for i in (1, 2)}
    small = model(large)
    assert {name: tuple(t.shape[1:]) for name, t in small.items()} == block_shapes(target)
    BLOCKS[target]().load_state_dict({name: tensor[2] for name, tensor in small.items()})


def test_the_sequence_is_one_kernel_a_token_and_the_output_two_halves_of_eighteen():
    model = Mixer(SMALL)
    seen = {}
    model.embed.register_forward_hook(lambda _, args, out: seen.update(tokens=args[0]))
    model.head.register_forward_hook(lambda _, args, out: seen.update(out=out))
    large = {f"conv{i}.weight": torch.randn(2, 6, 6, 3, 3) for i in (1, 2)}
    small = model(large)
    assert torch.equal(seen["tokens"][1, 6 * 4 + 2], large["conv1.weight"][1, 4, 2].flatten())
    assert torch.equal(seen["tokens"][1, 36 + 6 * 3 + 5], large["conv2.weight"][1, 3, 5].flatten())
    first, second = seen["out"].split(18, 1)
    assert torch.equal(small["conv1.weight"], first.reshape(2, 3, 6, 3, 3))
    assert torch.equal(small["conv2.weight"], second.reshape(2, 6, 3, 3, 3))


def test_batch_norm_is_not_read():
    large = large_blocks([1, 2])
    changed = {name: t + 1 if "bn" in name else t for name, t in large.items()}
    model = Mixer(SMALL)
    for name, tensor in translate(model, large).items():
        assert torch.equal(translate(model, changed)[name], tensor)


def test_the_folded_mixer_reads_the_function():
    """Rescaling the rows before a batch norm changes the paper's input, but not the function."""
    large = large_blocks([1, 2])
    draw, c, eps = torch.Generator().manual_seed(0), torch.tensor([0.3, 1, 2, 5, 0.1, 1.5]), 1e-5
    for name in [name for name in large if "bn" in name]:
        large[name] = large[name] + 0.5 * torch.rand(large[name].shape, generator=draw)
    scaled = dict(large)
    scaled["large.conv1.weight"] = large["large.conv1.weight"] * c[:, None, None, None]
    scaled["large.bn1.running_mean"] = large["large.bn1.running_mean"] * c
    scaled["large.bn1.running_var"] = (large["large.bn1.running_var"] + eps) * c**2 - eps
    shifted = large | {"large.bn2.bias": large["large.bn2.bias"] + torch.arange(6.0)}
    folded, plain = Mixer(replace(SMALL, fold=True)), Mixer(SMALL)
    with torch.no_grad():
        for model in (folded, plain):
            model.embed.weight.mul_(10)
    assert parameter_count(folded) == parameter_count(plain) + SMALL.hidden_size
    before, after = (translate(folded, x) for x in (large, scaled))
    for name, tensor in before.items():
        assert_near(after[name], tensor, MIXED)
    name = "conv1.weight"
    assert not torch.allclose(translate(folded, shifted)[name], before[name], atol=1e-3)
    before, after = (translate(plain, x)[name] for x in (large, scaled))
    assert not torch.allclose(before, after, atol=1e-3)


def test_a_folded_token_is_a_scaled_kernel_with_the_bias_of_its_output_channel():
    large = {name.removeprefix("large."): t for name, t in large_blocks([1, 2]).items()}
    large["bn2.bias"] = torch.arange(12.0).view(2, 6)
    tokens, folded = Mixer(replace(SMALL, fold=True))._tokens(large), symmetry.fold(large)
    assert tokens.shape == (2, 72, 10)
    assert torch.equal(tokens[1, 36 + 6 * 3 + 5, :9], folded["conv2.weight"][1, 3, 5].flatten())
    assert tokens[1, 36 + 6 * 3 + 5, 9] == folded["conv2.bias"][1, 3] == 9


@pytest.mark.parametrize("target", TARGETS)
def test_translation_adds_the_initial_weights_also_from_a_file(target, tmp_path):
    model = Mixer(replace(SMALL, target=target)).eval()
    large, initial = large_blocks(range(3)), initial_weights(target, [7])
    difference = translate(model, large)
    model.start_from(initial)
    assert all(torch.equal(t, initial[name]) for name, t in model.initial_block().items())
    save_translator(tmp_path / "t", model)
    for same in (model, load_translator(tmp_path / "t")):
        small = translate(same, large)
        assert all(torch.equal(small[name], difference[name] + initial[name]) for name in initial)


def test_the_number_of_threads_changes_no_translation():
    model, large = Mixer(SMALL).eval(), large_blocks(range(2 * PIECE + 3))
    output = model(part(large, "large"))
    one, three = (translate(model, large, Compute(workers=n)) for n in (1, 3))
    assert_near(one, {name: tensor.detach() for name, tensor in output.items()}, MIXED)
    assert all(torch.equal(one[name], three[name]) for name in one)
    assert not any(tensor.requires_grad for tensor in three.values())


def test_dropout_acts_in_training_only():
    model = Mixer(MixerConfig(layers=1, hidden_size=8, dropout=0.5))
    large = large_blocks([1])
    training = [model.train()(part(large, "large"))["conv1.weight"] for _ in range(2)]
    assert not torch.equal(*training)
    translated = [translate(model, large)["conv1.weight"] for _ in range(2)]
    assert torch.equal(*translated) and model.training


def test_dropout_acts_in_the_layers_and_not_in_the_head():
    model = Mixer(MixerConfig(layers=1, hidden_size=8, dropout=0.5)).train()
    rates = {n: m.p for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert {p for name, p in rates.items() if "head" in name} == {0.0}
    assert [p for name, p in rates.items() if "head" not in name] == [0.5] * 4
    x = torch.randn(3, 72, 8)
    assert torch.equal(model.sequence_head(x), model.sequence_head(x))


def test_the_third_of_a_mixer_costs_a_third():
    large = part(large_blocks([1]), "large")
    small, third = (multiply_adds(Mixer(SIZES[size]), large) for size in ("small", "third"))
    assert parameter_count(Mixer(SIZES["third"])) == 593_581
    assert 0.30 < third / small < 0.36


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_gives_back_the_same_translator(target, tmp_path):
    model = Mixer(MixerConfig(layers=1, hidden_size=8, dropout=0.25, target=target)).eval()
    path = tmp_path / "translator.safetensors"
    save_translator(path, model)
    again = load_translator(path)
    assert again.config == model.config and not again.training
    large = large_blocks(range(3))
    first, second = translate(model, large), translate(again, large)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_not_a_translator_is_refused(tmp_path):
    path = tmp_path / "translator.safetensors"
    with pytest.raises(KTError, match="missing"):
        load_translator(path)
    save_tensors(path, {"x": torch.ones(1)})
    with pytest.raises(KTError, match="not a translator"):
        load_translator(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(KTError, match="damaged"):
        load_translator(path)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("make", "config"), OTHERS)
def test_other_ways_to_mix_tokens_read_and_write_what_the_mixer_does(make, config, target):
    model, mixer = (m(replace(c, target=target)) for m, c in ((make, config), (Mixer, SMALL)))
    small = translate(model, large_blocks(range(3)))
    assert {name: tuple(t.shape[1:]) for name, t in small.items()} == block_shapes(target)
    own = {name: t.shape for name, t in model.state_dict().items() if "token_mixing" not in name}
    assert own.pop("position", (72, 16)) == (72, 16)
    shared = {n: t.shape for n, t in mixer.state_dict().items() if "token_mixing" not in n}
    assert own == shared


def test_self_attention_is_pytorchs():
    ours, theirs = SelfAttention(16, 4, 0.0), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.read.weight)
        theirs.in_proj_bias.copy_(ours.read.bias)
    theirs.out_proj = ours.write
    x = torch.randn(3, 72, 16)
    assert_near(ours(x), theirs(x, x, x)[0], 3 * 16 + 2 * 72)


def test_attention_knows_positions_and_a_convolution_its_neighbours():
    swap = torch.arange(72)
    swap[[10, 50]] = torch.tensor([50, 10])
    x = torch.randn(1, 72, 16, requires_grad=True)
    mixing = Attention(OTHERS[0][1]).token_mixing()
    assert_near(mixing(x[:, swap]), mixing(x)[:, swap], 3 * 16 + 2 * 72)
    model = Attention(OTHERS[0][1])
    tokens = torch.randn(1, 72, 9)
    assert not torch.allclose(
        model.layers(model.embedded(tokens[:, swap])), model.layers(model.embedded(tokens))[:, swap]
    )
    layers = Convolution(SMALL).layers
    (seen,) = torch.autograd.grad(layers(x)[0, 30].sum(), x)
    assert seen[0].any(1).nonzero().flatten().tolist() == [28, 29, 30, 31, 32]


def test_multiply_adds_are_those_of_the_shapes():
    layers, width, along, heads = 2, 16, 8, 72 * 9 * 16 + 16 * (72 * 8 + 8 * 36) + 36 * 16 * 9
    channels = 2 * 72 * width * 8
    mixing = {
        Mixer: 2 * 72 * along * width,
        Attention: 4 * 72 * width**2 + 2 * 72**2 * width,
        Convolution: 3 * 72 * width**2,
    }
    large = initial_weights("large", [0])
    for make, config in [(Mixer, SMALL), *OTHERS]:
        expected = heads + layers * (mixing[make] + channels)
        assert multiply_adds(make(config), large) == expected
        assert multiply_adds(make(config).eval(), large) == expected


@pytest.mark.parametrize(("make", "config"), OTHERS)
def test_other_ways_to_mix_tokens_learn(make, config):
    torch.manual_seed(0)
    model = make(config)
    large, small = initial_weights("large", range(4)), initial_weights("conv", range(4))
    objective, index = WeightObjective(large, small), torch.arange(4)
    optimizer, losses = torch.optim.Adam(model.parameters(), 0.01), []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(objective.backward(model, index).item())
        optimizer.step()
    assert losses[-1] < losses[0] / 4
