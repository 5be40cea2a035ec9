"""The catalogue: bundled and user models, found by name or path, with a word for each that cannot be used."""

from pathlib import Path

import pytest
import SAHLoRALib
import torch
from SAHLoRALib.adapters import AdapterConfig, attach, detach
from SAHLoRALib.catalogue import Catalogue, bundled_folders, user_folder
from SAHLoRALib.errors import ModelError
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.weights import save_adapter, save_base


@pytest.fixture
def folders(tmp_path):
    """Bundled: base and adapter. User: a fine-tuned network and an adapter of its own."""
    torch.manual_seed(0)
    bundled, user = tmp_path / "bundled", tmp_path / "user"
    network, config = MultiViewUnet(NetworkConfig(levels=1, width=2)), AdapterConfig(rank=1)
    base = save_base(network, bundled / "tbi-base.safetensors", grid=PixelGrid())
    attach(network, config)
    save_adapter(network, config, bundled / "asah-cp-lora.safetensors", base=base)
    save_adapter(network, config, user / "mine.safetensors", base=base)
    detach(network)
    save_base(network, user / "all-tuned.safetensors", grid=PixelGrid(), kind="finetuned", base_digest=base.digest)
    return [bundled, user]


def test_bases_come_first_then_adapters_by_name(folders):
    catalogue = Catalogue(folders)
    assert [(m.kind, m.name) for m in catalogue.models()] == [
        ("base", "tbi-base"), ("finetuned", "all-tuned"), ("adapter", "asah-cp-lora"), ("adapter", "mine"),
    ]  # fmt: skip
    assert catalogue.problems() == []


def test_a_model_is_found_by_name_and_by_path(folders):
    catalogue = Catalogue(folders)
    found = catalogue.find("mine")
    assert found.path == folders[1] / "mine.safetensors"
    assert catalogue.find(found.path) == catalogue.find(str(found.path)) == found
    assert Catalogue([]).find(found.path) == found
    assert catalogue.find("mine", kind="adapter") == found
    assert catalogue.find("all-tuned", kind="base").kind == "finetuned"


def test_an_unknown_name_lists_what_there_is(folders, tmp_path):
    catalogue = Catalogue(folders)
    with pytest.raises(ModelError, match=r"no model 'asah'.*tbi-base, all-tuned, asah-cp-lora, mine"):
        catalogue.find("asah")
    with pytest.raises(ModelError, match="no weight file"):
        catalogue.find(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="No models lie in"):
        Catalogue([tmp_path / "nowhere"]).find("asah")
    for name in ("", "..", "x" * 500, "a\0b"):
        with pytest.raises(ModelError):
            catalogue.find(name)


def test_a_model_of_the_wrong_kind_is_refused(folders):
    catalogue = Catalogue(folders)
    with pytest.raises(ModelError, match=r"tbi-base is not an adapter.*asah-cp-lora, mine"):
        catalogue.find("tbi-base", kind="adapter")
    with pytest.raises(ModelError, match=r"mine is an adapter.*tbi-base, all-tuned"):
        catalogue.find("mine", kind="base")


def test_a_new_model_is_there_at_once(folders):
    catalogue = Catalogue(folders)
    before = len(catalogue.models())
    save_base(MultiViewUnet(NetworkConfig(levels=1, width=2)), folders[1] / "new.safetensors", grid=PixelGrid())
    assert len(catalogue.models()) == before + 1
    assert catalogue.find("new")


def test_damaged_files_are_problems_and_hide_nothing(folders):
    (folders[1] / "broken.safetensors").write_bytes(b"no")
    (folders[1] / ".1234.half-written.safetensors").write_bytes(b"no")
    catalogue = Catalogue(folders)
    assert len(catalogue.models()) == 4
    (problem,) = catalogue.problems()
    assert "broken.safetensors" in problem
    with pytest.raises(ModelError, match=r"broken\.safetensors is not a complete"):
        catalogue.find("broken")


def test_a_user_model_cannot_take_the_place_of_a_bundled_one(folders):
    twin = folders[1] / "tbi-base.safetensors"
    save_base(MultiViewUnet(NetworkConfig(levels=1, width=3)), twin, grid=PixelGrid())
    catalogue = Catalogue(folders)
    assert catalogue.find("tbi-base").path.parent == folders[0]
    assert catalogue.find(twin).network.width == 3
    (problem,) = catalogue.problems()
    assert str(twin) in problem


def test_a_folder_named_twice_is_read_once(folders):
    catalogue = Catalogue([*folders, folders[0]])
    assert len(catalogue.models()) == 4
    assert catalogue.problems() == []


def test_an_adapters_base_is_found_by_its_digest(folders):
    catalogue = Catalogue(folders)
    (folders[0] / "tbi-base.safetensors").rename(folders[1] / "renamed.safetensors")
    assert catalogue.base_of(catalogue.find("mine")).name == "renamed"


def test_the_base_beside_the_adapter_comes_before_a_copy_of_it_elsewhere(folders):
    base = folders[0] / "tbi-base.safetensors"
    (folders[1] / base.name).write_bytes(base.read_bytes())
    catalogue = Catalogue(folders)
    assert catalogue.base_of(catalogue.find("mine")).path == folders[1] / base.name
    assert catalogue.base_of(catalogue.find("asah-cp-lora")).path == base


def test_a_base_that_is_not_at_hand_is_asked_for(folders):
    catalogue = Catalogue(folders)
    mine = catalogue.find("mine")
    (folders[0] / "tbi-base.safetensors").unlink()
    (folders[1] / "all-tuned.safetensors").unlink()
    with pytest.raises(ModelError, match=r"tbi-base .* is not at hand"):
        catalogue.base_of(mine)
    save_base(MultiViewUnet(NetworkConfig(levels=1, width=2)), folders[0] / "tbi-base.safetensors", grid=PixelGrid())
    with pytest.raises(ModelError, match="mine belongs to the base tbi-base"):
        catalogue.base_of(mine)


def test_the_bundled_models_of_the_source_tree_are_known():
    tree = Path(SAHLoRALib.__file__).resolve().parents[2] / "Resources" / "Models"
    assert (tree in bundled_folders()) == tree.is_dir()
    assert all(folder.is_dir() for folder in bundled_folders())


def test_the_users_folder_follows_platform_and_environment(tmp_path):
    home = Path.home()
    assert user_folder({"SAHLORA_MODELS": str(tmp_path)}, "linux") == tmp_path
    assert user_folder({}, "linux") == home / ".local" / "share" / "SAHLoRA" / "models"
    assert user_folder({"XDG_DATA_HOME": str(tmp_path)}, "linux") == tmp_path / "SAHLoRA" / "models"
    assert user_folder({}, "darwin") == home / "Library" / "Application Support" / "SAHLoRA" / "models"
    assert user_folder({"LOCALAPPDATA": str(tmp_path)}, "win32") == tmp_path / "SAHLoRA" / "models"


def test_the_default_catalogue_has_both(tmp_path, monkeypatch):
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path))
    assert Catalogue().folders == [*bundled_folders(), tmp_path]
