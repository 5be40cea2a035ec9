"""Weight files: what is written comes back, and what is damaged, foreign or of another base says so."""

import json
import math
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from SAHLoRALib.adapters import METHODS, AdapterConfig, attach, count_parameters, merge, trainable_parameters
from SAHLoRALib.errors import ConfigError, ModelError, OutputError
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.weights import (
    FORMAT_VERSION,
    digest,
    load_adapted,
    load_network,
    model_path,
    read_info,
    save_adapter,
    save_base,
)

SMALL = NetworkConfig(levels=1, width=4, dilations=(1, 2))
GRID = PixelGrid(pixel_mm=1.5, window=(-10.0, 120.0), multiple=8)


def small_network(seed: int = 0) -> MultiViewUnet:
    torch.manual_seed(seed)
    network = MultiViewUnet(SMALL).train()
    with torch.no_grad():
        network(torch.rand(2, 1, 8, 8))
    return network.eval()


def disturb(network) -> None:
    with torch.no_grad():
        for _, parameter in trainable_parameters(network):
            parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.fixture
def network() -> MultiViewUnet:
    return small_network()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 1, 8, 8)


@pytest.fixture
def base(network, tmp_path):
    return save_base(network, tmp_path / "tbi-base.safetensors", grid=GRID)


@pytest.fixture
def adapter(network, base, tmp_path):
    attach(network, AdapterConfig(rank=2))
    disturb(network)
    return save_adapter(network, AdapterConfig(rank=2), tmp_path / "asah.safetensors", base=base)


def rewrite(path, change, tensors=None):
    """Write the file anew with a changed header; the format by hand, since the library would not write nonsense."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    outer = json.loads(raw[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["sahlora"])
    change(header)
    outer["__metadata__"]["sahlora"] = json.dumps(header)
    text = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


# --- there and back


def test_a_base_comes_back_as_it_was(network, image, tmp_path):
    training = {"epochs": 3, "rate": np.float32(0.5), "folder": tmp_path, "folds": (1, 2)}
    metrics = {"dice": np.array([0.5, 0.75]), "hd95": math.inf, "volume": {"ml": math.nan}}
    saved = save_base(
        network, tmp_path / "deep" / "tbi-base.safetensors", grid=GRID, training=training, metrics=metrics, description="Größe", threshold=0.4
    )
    info = read_info(saved.path)
    assert info == saved
    assert (info.name, info.kind, info.network, info.grid, info.threshold) == ("tbi-base", "base", SMALL, GRID, 0.4)
    assert info.training == {"epochs": 3, "rate": 0.5, "folder": str(tmp_path), "folds": [1, 2]}
    assert info.metrics == {"dice": [0.5, 0.75], "hd95": None, "volume": {"ml": None}}
    assert (info.licence, info.description, info.adapter, info.base_digest) == ("Apache-2.0", "Größe", None, None)
    assert info.date.endswith("+00:00")
    loaded, what = load_network(info)
    assert what == info
    assert not loaded.training
    assert torch.equal(loaded(image), network(image))
    assert digest(loaded) == digest(network) == info.digest


@pytest.mark.parametrize("norm", ["frozen", "affine", "adapt"])
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_comes_back_as_it_was_merged_and_attached(network, base, image, tmp_path, method, norm):
    config = AdapterConfig(method, 2, alpha=3, scaling="rslora", norm=norm)
    attach(network, config)
    disturb(network)
    network.train()(image)
    expected = network.eval()(image)
    saved = save_adapter(network, config, tmp_path / "asah.safetensors", base=base, metrics={"dice": 0.7})
    assert saved == read_info(saved.path)
    assert (saved.kind, saved.adapter, saved.base_digest, saved.base_name) == ("adapter", config, base.digest, "tbi-base")
    assert (saved.network, saved.grid, saved.threshold) == (base.network, base.grid, base.threshold)
    merged, what = load_network(base.path, saved.path)
    assert what == saved
    assert torch.equal(merged(image), expected)
    attached = load_adapted(base, saved)
    assert torch.equal(attached(image), expected)
    assert sum(p.numel() for _, p in trainable_parameters(attached)) == count_parameters(config, SMALL)


def test_a_fine_tuned_network_stands_alone_and_remembers_its_base(network, base, image, tmp_path):
    attach(network, AdapterConfig(rank=2))
    disturb(network)
    merge(network)
    saved = save_base(network, tmp_path / "all.safetensors", grid=GRID, kind="finetuned", base_digest=base.digest, base_name=base.name)
    assert (saved.kind, saved.base_digest, saved.base_name, saved.stands_alone) == ("finetuned", base.digest, "tbi-base", True)
    loaded, _ = load_network(saved)
    assert torch.equal(loaded(image), network(image))


def test_an_adapter_file_holds_its_adapter_alone(base, adapter):
    config = AdapterConfig(rank=2)
    assert adapter.path.stat().st_size < 4 * count_parameters(config, SMALL) + 8000
    assert adapter.digest != base.digest


def test_the_header_is_read_without_the_weights(adapter, base):
    raw = bytearray(base.path.read_bytes())
    raw[-400:] = bytes(400)
    base.path.write_bytes(raw)
    assert read_info(base.path) == base
    with pytest.raises(ModelError, match="digest"):
        load_network(base)


# --- digests


def test_the_digest_knows_names_values_types_and_shapes():
    state = {"a": torch.arange(6.0), "b": torch.tensor(3)}
    same = {"b": torch.tensor(3), "a": torch.arange(12.0)[::2] / 2}
    assert digest(state) == digest(same)
    assert len(digest(state)) == 64
    others = [
        {"c": state["a"], "b": state["b"]},
        {"a": state["a"] + 1e-6, "b": state["b"]},
        {"a": state["a"].double(), "b": state["b"]},
        {"a": state["a"].view(2, 3), "b": state["b"]},
        {"a": state["a"]},
    ]
    assert len({digest(other) for other in [state, *others]}) == 6


def test_a_network_with_an_adapter_on_it_has_no_digest(network):
    before = digest(network)
    attach(network, AdapterConfig(rank=1))
    with pytest.raises(ConfigError, match="merge or detach"):
        digest(network)
    merge(network)
    assert digest(network) == before, "an adapter that has learnt nothing changes nothing"


# --- which goes with which


def test_an_adapter_refuses_another_base(adapter, tmp_path):
    other = save_base(small_network(9), tmp_path / "other.safetensors", grid=GRID)
    with pytest.raises(ModelError, match=r"asah belongs to the base tbi-base .* not to other"):
        load_network(other, adapter)


def test_a_copied_base_under_another_name_is_still_the_base(adapter, base, tmp_path):
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes(base.path.read_bytes())
    load_network(copy, adapter)


def test_base_and_adapter_cannot_be_confused(adapter, base):
    with pytest.raises(ModelError, match="asah is an adapter and needs its base tbi-base"):
        load_network(adapter)
    with pytest.raises(ModelError, match="tbi-base is not an adapter"):
        load_network(base, base)


# --- what cannot be read


def cut_header(path):
    path.write_bytes(path.read_bytes()[:100])


def cut_tensors(path):
    path.write_bytes(path.read_bytes()[:-10])


def append(path):
    path.write_bytes(path.read_bytes() + b"more")


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(os.urandom(2000))


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])


def pickled(path):
    path.write_bytes(pickle.dumps({"weights": [1, 2]}))


def torch_saved(path):
    torch.save({"weights": torch.rand(3)}, path)


@pytest.mark.parametrize("damage", [cut_header, cut_tensors, append, empty, garbage, huge_header, pickled, torch_saved])
def test_a_file_that_is_damaged_or_of_another_format_says_so(base, damage):
    damage(base.path)
    for read in (read_info, load_network):
        with pytest.raises(ModelError, match=r"tbi-base\.safetensors is not a complete safetensors file"):
            read(base.path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "trojan.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError):
        load_network(path)
    torch.save(Bomb(), path)
    with pytest.raises(ModelError):
        load_network(path)
    assert not (tmp_path / "exploded").exists()


def test_another_programs_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.rand(3)}, tmp_path / "llama.safetensors", metadata)
        with pytest.raises(ModelError, match="not one of SAHLoRA's"):
            read_info(tmp_path / "llama.safetensors")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ModelError, match="no weight file"):
        read_info(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="folder"):
        read_info(tmp_path)
    with pytest.raises(ModelError):
        read_info(tmp_path / ("x" * 300 + ".safetensors"))


def test_a_file_of_the_future_asks_for_an_update(base):
    rewrite(base.path, lambda header: header.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(ModelError, match=f"format {FORMAT_VERSION + 1}.*Update SAHLoRA"):
        read_info(base.path)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": "1"}, {"format_version": 0}, {"kind": "toy"}, {"kind": "adapter"}, {"network": {"levels": 99}},
        {"network": {"levels": 2.0}}, {"network": {"layers": 3}}, {"network": {"dilations": [1] * 9}}, {"network": {"dilations": [1, 10**30]}},
        {"grid": {"pixel_mm": 1, "window": [0, 1], "multiple": 10**6}},
        {"network": 3}, {"grid": {"pixel_mm": 0, "window": [0, 1], "multiple": 1}}, {"grid": {}}, {"digest": None}, {"digest": "abc"},
        {"threshold": 2}, {"threshold": "high"}, {"adapter": {"method": "cp-lora"}}, {"base_digest": 5}, {"training": 7},
    ],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused(base, change):
    rewrite(base.path, lambda header: header.update(change))
    with pytest.raises(ModelError, match=r"header of .*tbi-base"):
        read_info(base.path)


@pytest.mark.parametrize("change", [{"adapter": {"method": "vera"}}, {"adapter": {"rank": 10**9}}, {"adapter": {"size": 3}}, {"base_digest": None}])
def test_an_adapters_header_that_makes_no_sense_is_refused(adapter, change):
    rewrite(adapter.path, lambda header: header.update(change))
    with pytest.raises(ModelError, match=r"header of .*asah"):
        read_info(adapter.path)


@pytest.mark.parametrize("key", ["format_version", "kind", "network", "grid", "digest", "adapter", "threshold", "base_digest"])
def test_a_header_that_lacks_something_is_refused(base, key):
    rewrite(base.path, lambda header: header.pop(key))
    with pytest.raises(ModelError, match=key):
        read_info(base.path)


def test_a_header_that_is_not_json_is_refused(tmp_path):
    from safetensors.torch import save_file

    for text in ("{", "[]", "null", "3", "[" * 100_000):
        save_file({"weight": torch.rand(3)}, tmp_path / "a.safetensors", {"sahlora": text})
        with pytest.raises(ModelError, match="header"):
            read_info(tmp_path / "a.safetensors")


def test_tensors_of_another_network_are_refused_before_any_memory_is_taken(base, adapter):
    rewrite(base.path, lambda header: header.update(network={"levels": 6, "width": 512, "dilations": [1, 2]}))
    with pytest.raises(ModelError, match="shape"):
        load_network(base.path)


def test_an_adapter_of_another_rank_than_its_header_says_is_refused(base, adapter):
    rewrite(adapter.path, lambda header: header["adapter"].update(rank=3))
    with pytest.raises(ModelError, match="shape"):
        load_network(base, adapter.path)
    rewrite(adapter.path, lambda header: header["adapter"].update(rank=2, method="cp-dora"))
    with pytest.raises(ModelError, match="lacks the tensor"):
        load_network(base, adapter.path)
    rewrite(adapter.path, lambda header: header["adapter"].update(method="cp-lora", modules=["head"]))
    with pytest.raises(ModelError, match="does not belong"):
        load_network(base, adapter.path)


def test_weights_that_are_not_numbers_are_neither_written_nor_read(network, base, tmp_path):
    from safetensors.torch import save_file

    with torch.no_grad():
        network.stem[0][0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ModelError, match="not numbers"):
        save_base(network, tmp_path / "nan.safetensors", grid=GRID)
    assert not (tmp_path / "nan.safetensors").exists()
    state = network.state_dict()
    header = {}
    rewrite(base.path, header.update)
    save_file(state, base.path, {"sahlora": json.dumps(header | {"digest": digest(state)})})
    with pytest.raises(ModelError, match="not numbers"):
        load_network(base.path)


def test_weights_of_another_type_are_refused(network, base):
    from safetensors.torch import save_file

    header = {}
    rewrite(base.path, header.update)
    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    save_file(state, base.path, {"sahlora": json.dumps(header | {"digest": digest(state)})})
    with pytest.raises(ModelError, match="float16"):
        load_network(base.path)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_takes_half_the_room_and_keeps_three_digits(method, network, base, image, tmp_path):
    from safetensors.torch import load_file
    from SAHLoRALib.weights import record_metrics

    half = save_base(network, tmp_path / "half.safetensors", grid=GRID, half=True)
    stored = load_file(half.path)
    assert {t.dtype for t in stored.values() if t.ndim > 1} == {torch.float16} and stored["stem.0.1.running_var"].dtype == torch.float32
    assert sum(t.nbytes for t in stored.values() if t.ndim > 1) * 2 == sum(t.nbytes for t in network.state_dict().values() if t.ndim > 1)
    read = load_network(half)[0]
    assert {t.dtype for t in read.parameters()} == {torch.float32}
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], tensor, rtol=5e-4, atol=1e-7)
    assert read_info(half.path).half and half.digest != base.digest and not read_info(base.path).half

    config = AdapterConfig(method, rank=2)
    attach(read, config)
    disturb(read)
    adapter = save_adapter(read, config, tmp_path / "small.safetensors", base=half, half=True)
    merged = load_network(half, record_metrics(adapter, {"told": 1}))[0]
    merge(read)
    with torch.no_grad():
        torch.testing.assert_close(merged(image), read.eval()(image), rtol=2e-2, atol=2e-2)
    assert read_info(adapter.path).digest == adapter.digest and torch.float16 in {t.dtype for t in load_file(adapter.path).values()}


def test_versions_that_know_nothing_of_half_precision_read_only_what_has_none(network, base, tmp_path):
    header = {}
    rewrite(base.path, header.update)
    assert header["format_version"] == 1
    half = save_base(network, tmp_path / "half.safetensors", grid=GRID, half=True)
    rewrite(half.path, header.update)
    assert header["format_version"] == FORMAT_VERSION == 2


# --- what cannot be written


@pytest.mark.parametrize("name", ["a b", ".hidden", "con", "NUL.x", "a:b", "-flag", "x" * 101, "über", "tail."])
def test_names_that_are_no_plain_file_names_are_refused(network, tmp_path, name):
    with pytest.raises(ConfigError, match="name"):
        save_base(network, tmp_path / f"{name}.safetensors", grid=GRID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "a/b", "a\\b", "/etc/x", "..", "", "a\n"])
def test_a_name_cannot_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="name"):
        model_path(tmp_path, name)
    assert model_path(tmp_path, "asah-cp-lora.v2") == tmp_path / "asah-cp-lora.v2.safetensors"


def test_an_interrupted_write_leaves_the_old_file(network, base, monkeypatch):
    before = base.path.read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="No space left"):
        save_base(small_network(3), base.path, grid=GRID)
    assert base.path.read_bytes() == before
    assert [p.name for p in base.path.parent.iterdir()] == [base.path.name]


def test_saving_what_is_not_there_is_refused(network, base, tmp_path):
    with pytest.raises(ConfigError, match="adapter"):
        save_adapter(network, AdapterConfig(), tmp_path / "a.safetensors", base=base)
    attach(network, AdapterConfig(rank=2))
    with pytest.raises(ConfigError, match="adapter"):
        save_adapter(network, AdapterConfig(rank=3), tmp_path / "a.safetensors", base=base)
    with pytest.raises(ConfigError, match="merge it"):
        save_base(network, tmp_path / "a.safetensors", grid=GRID)
    merge(network)
    with pytest.raises(ConfigError, match="saved as"):
        save_base(network, tmp_path / "a.safetensors", grid=GRID, kind="adapter")
    with pytest.raises(ConfigError, match="threshold"):
        save_base(network, tmp_path / "a.safetensors", grid=GRID, threshold=0)
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        save_base(network, tmp_path / "a.pt", grid=GRID)


def test_a_header_cannot_steer_the_terminal(base):
    rewrite(base.path, lambda header: header.update(description="\x1b[2Ja model\nfake-row"))
    assert read_info(base.path).description == "[2Ja model fake-row"
