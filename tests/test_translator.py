import pytest
import torch
from torch.testing import assert_close

from kt import ensemble, pairs, translator
from kt.blocks import BLOCKS, TARGETS, block_shapes, initial_weights, parameter_count
from kt.errors import KTError
from kt.translator import Mixer, MixerConfig
from kt.translator.mixer import PAPER_SIZES

SMALL = MixerConfig(layers=2, hidden_size=16, sequence_dim=8, channel_dim=8)


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
    assert_close(translator.translate(model, large), translator.translate(model, changed))


def test_dropout_acts_in_training_only():
    model = Mixer(MixerConfig(layers=1, hidden_size=8, dropout=0.5))
    large = large_blocks([1])
    training = [model.train()(ensemble.part(large, "large"))["conv1.weight"] for _ in range(2)]
    assert not torch.equal(*training)
    translated = [translator.translate(model, large)["conv1.weight"] for _ in range(2)]
    assert torch.equal(*translated) and model.training


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_gives_back_the_same_translator(target, tmp_path):
    model = Mixer(MixerConfig(layers=1, hidden_size=8, dropout=0.25, target=target)).eval()
    path = tmp_path / "translator.safetensors"
    translator.save(path, model)
    again = translator.load(path)
    assert again.config == model.config and not again.training
    large = large_blocks(range(3))
    first, second = translator.translate(model, large), translator.translate(again, large)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_not_a_translator_is_refused(tmp_path):
    path = tmp_path / "translator.safetensors"
    with pytest.raises(KTError, match="missing"):
        translator.load(path)
    pairs.save(path, {"x": torch.ones(1)})
    with pytest.raises(KTError, match="not a translator"):
        translator.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(KTError, match="damaged"):
        translator.load(path)
