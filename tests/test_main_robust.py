"""The command line, with everything that people and disks do to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import kt
from kt import __main__ as program
from kt.networks.blocks import Network, weights
from kt.run.errors import KTError
from kt.run.files import check_output
from kt.translators import save_translator
from kt.translators.merge import Merge, MergeConfig
from kt.translators.mixer import Mixer, MixerConfig

ROOT = Path(__file__).resolve().parent.parent
COUNTER = "former.bn.num_batches_tracked"
SMALL = MergeConfig(layers=1, hidden_size=8, prototypes=8, target="conv")


def trained():
    torch.manual_seed(0)
    made = Network()
    made(torch.rand(8, 1, 28, 28))  # statistics of its own
    return made.eval()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A network and a translator in files, in the working folder."""
    monkeypatch.chdir(tmp_path)
    save_file(trained().state_dict(), "network.safetensors")
    torch.manual_seed(1)
    save_translator(Path("t.safetensors"), Merge(SMALL))
    return tmp_path


def call(*arguments, monkeypatch, capfd):
    """Exit status and standard error of the program, in this process."""
    monkeypatch.setattr(sys, "argv", ["kt", *map(str, arguments)])
    status: object = 0
    try:
        program.main()
    except SystemExit as end:
        status = end.code
    return status, capfd.readouterr().err


TRANSLATE = ("translate", "network.safetensors", "--translator", "t.safetensors", "-o")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (".", "it is a folder"),
        ("", "an empty name is given where a file is to be written"),
        ("there", "it is a folder"),
        ("x" * 300, "too long): choose a shorter name"),
        ("t.safetensors/small", "a part of the path is a file"),
        ("fifo", "is no regular file"),
        ("network.safetensors", "is a file that is read: choose another name, or add --force"),
        ("./there/../t.safetensors", "is a file that is read"),
        ("new/../network.safetensors", "is a file that is read"),
        ("link", "is a file that is read"),
        ("new/", "it is a folder: name a file"),
        ("new/.", "it is a folder: name a file"),
        ("loop", "symbolic links"),
        ("\udcff", "could not be written: choose a name in UTF-8"),
        ("d/" * 3000 + "x", "d/x could not be written (File name too long): choose a shorter name"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    folder, output, words, monkeypatch, capfd
):
    (folder / "there").mkdir()
    (folder / "link").symlink_to("network.safetensors")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    before = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    monkeypatch.setattr(kt.single, "load_translator", lambda path: pytest.fail("began"))
    monkeypatch.setattr(kt.single, "load_images", lambda name: pytest.fail("began"))
    commands = [TRANSLATE] if "read" in words else [TRANSLATE, ("train", "-o")]
    for command in commands:
        status, errors = call(*command, output, monkeypatch=monkeypatch, capfd=capfd)
        assert status == 1 and words in errors and errors.count("\n") == 1
        assert len(errors) < 500
    assert {path: path.read_bytes() for path in folder.glob("*.safetensors")} == before


def test_a_file_that_is_read_is_replaced_by_force(folder, monkeypatch, capfd):
    status, errors = call(
        *TRANSLATE, "network.safetensors", "--force", monkeypatch=monkeypatch, capfd=capfd
    )
    assert (status, errors) == (0, "")
    assert "block.conv1.weight" in load_file("network.safetensors")
    assert load_file("network.safetensors")["block.conv1.weight"].shape[0] == 3


def test_images_that_cannot_be_had_are_told_before_the_work(folder, monkeypatch, capfd):
    monkeypatch.setenv("KT_DATA_ROOT", "/nonexistent")
    monkeypatch.setattr(kt.single, "translate", lambda *given: pytest.fail("began"))
    status, errors = call(
        *TRANSLATE, "small", "--images", "mnist", monkeypatch=monkeypatch, capfd=capfd
    )
    assert status == 1 and "/nonexistent is no folder" in errors
    assert not (folder / "small").exists()


def test_what_is_written_has_the_mode_of_any_new_file(folder, monkeypatch, capfd):
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            assert call(*TRANSLATE, "small", monkeypatch=monkeypatch, capfd=capfd)[0] == 0
        finally:
            os.umask(before)
        assert (folder / "small").stat().st_mode & 0o777 == mode


def test_what_is_written_is_noticed_when_a_bit_flips(tmp_path):
    path = tmp_path / "network.safetensors"
    kt.save_network(path, trained())
    whole = path.read_bytes()
    for place in range(0, len(whole), 997):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(KTError, match="network"):
            kt.load_network(path)


# --- networks in what files people have -----------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {f"module.{name}": t for name, t in state.items()},
        lambda state: {f"_orig_mod.module.{name}": t for name, t in state.items()},
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model": state, "optimizer": {}},
        lambda state: {n: t for n, t in state.items() if "num_batches" not in n},
    ],
)
def test_state_dicts_are_read(change, tmp_path):
    network = trained()
    torch.save(change(network.state_dict()), tmp_path / "n.pt")
    again = kt.load_network(tmp_path / "n.pt")
    for name, tensor in weights(network).items():
        assert torch.equal(weights(again)[name], tensor)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(kind, tmp_path):
    half = {
        n: t.to(kind) if t.is_floating_point() else t for n, t in trained().state_dict().items()
    }
    torch.save(half, tmp_path / "n.pth")
    save_file(half, tmp_path / "n.safetensors")
    for name in ("n.pth", "n.safetensors"):
        again = weights(kt.load_network(tmp_path / name))
        assert all(torch.equal(tensor, half[n].float()) for n, tensor in again.items())


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def changed(**change):
    state = trained().state_dict() | change
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": Harmful()}, "no torch.save of weights alone"),
        ([1, 2], "no weights by name"),
        ({1: torch.ones(1)}, "no name"),
        ({"former.conv.weight": 3}, "no plain tensor"),
        ({"former.conv.weight": torch.ones(2, 2).to_sparse()}, "no plain tensor"),
        (changed(**{"head.weight": torch.ones(1)}), "unknown: head.weight"),
        (changed(**{"latter.fc.bias": None}), "missing: latter.fc.bias"),
        (changed(**{"latter.fc.bias": torch.ones(3)}), r"latter.fc.bias has shape \(3,\)"),
        (changed(**{"latter.fc.bias": torch.ones(10).int()}), "is torch.int32"),
        (
            changed(**{"latter.fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}),
            "not finite",
        ),
        (changed(**{"former.bn.running_var": -torch.ones(6)}), "negative variance"),
        (changed(**{COUNTER: torch.tensor(torch.nan)}), "num_batches_tracked, which is not finite"),
        (changed(**{COUNTER: torch.tensor(-1)}), "num_batches_tracked as .*, which is no count"),
        (changed(**{COUNTER: torch.tensor(1.5)}), "num_batches_tracked as .*, which is no count"),
        (changed(**{COUNTER: torch.tensor(1j)}), "num_batches_tracked as .*, which is no count"),
        (changed(**{COUNTER: torch.ones(2)}), "num_batches_tracked as .*, which is no count"),
        (changed(a=torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)), "cannot be us"),
        (changed(a=torch.full((2,), torch.nan, dtype=torch.complex64)), "a, which is not finite"),
        (changed(a=torch.ones(1).expand(10**12)), "which cannot be used"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "n.pt")
    with pytest.raises(KTError, match=words) as caught:
        kt.load_network("n.pt")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("n.pt ")
    assert not Path("harm").exists() and "delete" not in str(caught.value)


@pytest.mark.parametrize("refine", [[], ["--refine", "2"]])
def test_no_network_is_written_that_is_not_finite(refine, folder, monkeypatch, capfd):
    huge = trained().state_dict()
    for name in ("block.conv1.weight", "block.bn1.weight", "former.conv.weight"):
        huge[name] = huge[name] * 1e37
    save_file(huge, "network.safetensors")
    status, errors = call(*TRANSLATE, "small", *refine, monkeypatch=monkeypatch, capfd=capfd)
    assert status == 1 and "not finite" in errors and errors.count("\n") == 1
    assert not (folder / "small").exists()


def test_a_refinement_that_diverges_is_an_error(monkeypatch):
    def diverge(start, *given):
        return {name: tensor * torch.inf for name, tensor in start.items()}

    monkeypatch.setattr("kt.translators.refine.minimise", diverge)
    large, translator = trained(), Mixer(MixerConfig(1, 8)).eval()
    with pytest.raises(KTError, match="refined blocks: 1 of 1 are not finite"):
        kt.refine(kt.translate(large, translator), large, kt.load_images("digits")[0], 3)


# --- the end --------------------------------------------------------------------------------------


def test_a_closed_output_ends_in_silence(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CXX": "", "PATH": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "kt", *TRANSLATE, "small"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()
    assert (folder / "small").exists()


def test_a_file_that_is_cut_off_is_said_so(tmp_path):
    torch.save(trained().state_dict(), tmp_path / "n.pt")
    (tmp_path / "n.pt").write_bytes((tmp_path / "n.pt").read_bytes()[:-1])
    with pytest.raises(KTError, match="the end of the archive is missing"):
        kt.load_network(tmp_path / "n.pt")


@pytest.mark.parametrize("name", [" a", "a\n", "\udcff", "a\0"])
def test_a_translator_that_is_not_there_is_not_called_damaged(name, folder, monkeypatch, capfd):
    arguments = ("translate", "network.safetensors", "-o", "s", "--translator", name)
    status, errors = call(*arguments, monkeypatch=monkeypatch, capfd=capfd)
    assert status == 1 and "damaged" not in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("translate",), ("nothing",), ("train", "-o", "a", "--images", "x" * 5000), ("\udcff",)],
)
def test_what_is_wrong_with_the_command_line_is_one_line(arguments, monkeypatch, capfd):
    status, errors = call(*arguments, monkeypatch=monkeypatch, capfd=capfd)
    assert status == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    assert len(errors) < 500


def test_an_input_that_no_memory_holds_is_one_line(folder, monkeypatch, capfd):
    arguments = ("compress", "a:b", "network.safetensors", "-o", "s", "--input", "99999999,3,99,99")
    status, errors = call(*arguments, monkeypatch=monkeypatch, capfd=capfd)
    assert status == 1 and "GiB of memory" in errors and errors.count("\n") == 1


def test_an_empty_name_is_refused(folder, monkeypatch, capfd):
    compress = ("compress", "a:b", "network.safetensors", "-o", "s", "--images", "")
    for arguments in (compress, ("train", "-o", "")):
        status, errors = call(*arguments, monkeypatch=monkeypatch, capfd=capfd)
        assert status == 1 and "an empty name" in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--steps", "99999999", "from 0 to 1000000"),
        ("--round-to", "0", "from 1 to 1000000"),
        ("--input", "1,3,0", "above 0 with commas"),
        ("--input", "1,3,", "above 0 with commas"),
    ],
)
def test_a_number_that_is_refused_is_told_what_is_accepted(
    option, value, wanted, folder, monkeypatch, capfd
):
    arguments = ("compress", "a:b", "network.safetensors", "-o", "s", option, value)
    status, errors = call(*arguments, monkeypatch=monkeypatch, capfd=capfd)
    assert status == 2 and f"got {value!r}" in errors and wanted in errors


def test_a_refinement_without_end_is_refused(folder, monkeypatch, capfd):
    for steps in ("0", "-1", "1000000000000", "9" * 5000):
        status, errors = call(
            *TRANSLATE, "s", "--refine", steps, monkeypatch=monkeypatch, capfd=capfd
        )
        assert status == 2 and "accepts a whole number from 1 to 100000" in errors


def test_a_seed_that_cannot_be_is_refused(folder, monkeypatch, capfd):
    for seed in ("-1", "x", str(2**63), "9" * 40):
        status, errors = call(
            "train", "-o", "s", "--seed", seed, monkeypatch=monkeypatch, capfd=capfd
        )
        assert status == 2 and f"accepts a whole number from 0 to {2**63 - 1}" in errors


def test_what_leads_to_the_standard_output_is_no_file(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: True)  # as where it leads to a log
    with pytest.raises(KTError, match="is no regular file"):
        check_output(Path("/dev/stdout"))


GREY, LABELS = torch.zeros(4, 28, 28, dtype=torch.uint8), torch.arange(4)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (GREY.float(), LABELS, "images are torch.float32"),
        (GREY.numpy(), LABELS, "tensors, not ndarray|needs a Tensor, not a ndarray"),
        (GREY[:, :20], LABELS, r"images are \(4, 20, 28\)"),
        (GREY[:0], LABELS[:0], "there are no images"),
        (GREY[:, :0, :0], LABELS, "there are no images"),
    ],
)
def test_images_that_cannot_be_used_are_refused(images, labels, words):
    data, network = kt.ImageSet(images, labels), trained()
    for use in (
        kt.train_network,
        lambda data: kt.accuracy(network, data),
        lambda data: kt.refine(kt.Network("conv"), network, data, 1),
    ):
        with pytest.raises(KTError, match=words) as caught:
            use(data)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS[:3], r"labels \(3,\)"),
        (LABELS + 7, "labels are 7 to 10"),
        (LABELS - 1, "labels are -1 to 2"),
        (LABELS.int(), "labels torch.int32"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_unless_none_is_used(labels, words):
    data, network = kt.ImageSet(GREY, labels), trained()
    with pytest.raises(KTError, match=words):
        kt.train_network(data)
    with pytest.raises(KTError, match=words):
        kt.accuracy(network, data)
    assert isinstance(kt.refine(kt.Network("conv"), network, data, 1), kt.Network)


def test_images_of_other_networks_are_refused():
    small, network = kt.Network("conv"), trained()
    colour, narrow = GREY[:, None].repeat(1, 3, 1, 1), GREY[:, :20, :20]
    for images, words in ((colour, "images are 3 x 28 x 28"), (narrow, "images are of 20 x 20")):
        for use in (
            lambda data: kt.accuracy(network, data),
            lambda data: kt.refine(small, network, data, 1),
        ):
            with pytest.raises(KTError, match=words):
                use(kt.ImageSet(images, LABELS))


def test_what_is_no_network_or_no_step_is_refused():
    network, data = trained(), kt.ImageSet(GREY, LABELS)
    linear = torch.nn.Linear(1, 1)
    for use in (
        lambda: kt.translate(linear),
        lambda: kt.accuracy(linear, data),
        lambda: kt.refine(linear, network, data),
        lambda: kt.save_network("n.safetensors", linear),
    ):
        with pytest.raises(KTError, match="needs a Network, not a Linear"):
            use()
    with pytest.raises(KTError, match="there is no block 'huge': choose among large, conv"):
        kt.Network("huge")
    for steps in (0, -5, 1.5):
        with pytest.raises(KTError, match=r"steps is .*; it accepts a whole number from 1"):
            kt.refine(kt.Network("conv"), network, data, steps)
