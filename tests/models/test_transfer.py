"""Transfer learning: what is frozen stays as it is, and the rest trains as it should."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision import models

from discern.config.user_config import conf_dir
from discern.errors import DiscernError
from discern.models.checkpoint import write
from discern.models.mlp import MLP
from discern.models.saved import fill
from discern.models.transfer import DEPTHS, TransferClassifier, last_stages

SHAPE = (3, 64, 64)


def classifier(backbone: str = "resnet18", **settings: object) -> TransferClassifier:
    torch.manual_seed(0)
    settings = {"weights": None, "head": [8], "dropout": 0.0, **settings}
    return TransferClassifier(SHAPE, 5, backbone=backbone, **settings)  # type: ignore[arg-type]


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(size, *SHAPE), torch.randint(5, (size,))


def steps(network: nn.Module, count: int, rate: float = 0.05) -> None:
    """Train as a run does, with its changes between training and evaluation."""
    images, labels = batch()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=rate)
    for _ in range(count):
        network.train()
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()
        network.eval()
        with torch.inference_mode():
            network(images)


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, value in network.state_dict().items() if not value.equal(before[key])}


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


def by_hand(network: TransferClassifier) -> nn.Sequential:
    """The same network as one would write it without discern."""
    backbone = models.resnet18()
    backbone.fc = nn.Identity()
    backbone.load_state_dict(network.backbone.network.state_dict())
    head = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 5))
    values = network.head.state_dict().values()
    head.load_state_dict(dict(zip(head.state_dict(), values, strict=True)))
    # The order of the channels in memory changes the last bits of a convolution's sums.
    return nn.Sequential(backbone, head).to(memory_format=torch.channels_last)


# What is frozen


@pytest.mark.parametrize("training", [True, False])
def test_a_frozen_backbone_is_the_handwritten_one(training):
    network = classifier().train(training)
    backbone, head = by_hand(network).eval()
    images, labels = batch()
    with torch.no_grad():
        features = backbone(images)
    logits = head(features)
    torch.testing.assert_close(network.features(images), features, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(network(images), logits, rtol=1e-6, atol=1e-6)

    cross_entropy(network(images), labels).backward()
    cross_entropy(logits, labels).backward()
    for ours, theirs in zip(network.head.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    assert all(parameter.grad is None for parameter in network.backbone.parameters())


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_ten_steps_leave_the_frozen_backbone_as_it_was_to_the_bit(backbone):
    network = classifier(backbone, head=[])
    before, digest = snapshot(network), network.backbone.digest()
    steps(network, 10 if backbone != "densenet121" else 2)
    assert changed(network, before) == {"head.output.weight", "head.output.bias"}
    assert network.backbone.digest() == digest


def test_the_features_of_a_frozen_backbone_have_no_graph_and_can_be_saved_for_one():
    network = classifier().train()
    images, _ = batch()
    features = network.features(images)
    assert features.grad_fn is None
    assert not features.is_inference()
    with torch.no_grad():
        assert torch.equal(network.features(images), features)
    with torch.inference_mode():
        assert torch.equal(network.features(images), features)


def test_a_frozen_backbone_is_in_eval_mode_through_every_change_of_mode():
    network = classifier("mobilenet_v3_small")
    whole = nn.ModuleList([network])
    for mode in (True, False, True):
        whole.train(mode)
        assert not any(module.training for module in network.backbone.modules())
        assert all(module.training == mode for module in network.head.modules())
    images, _ = batch()
    assert torch.equal(network.features(images), network.features(images)), "dropout is on"


def test_gradients_reach_images_that_ask_for_them():
    """As for a saliency map."""
    network = classifier().eval()
    images, _ = batch()
    theirs = by_hand(network).eval()
    gradients = []
    for each in (network, theirs):
        asking = images.clone().requires_grad_()
        each(asking)[:, 0].sum().backward()
        gradients.append(asking.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in network.backbone.parameters())


def test_mixed_precision_trains_the_head_of_a_frozen_backbone():
    network = classifier().train()
    images, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(network(images), labels)
    loss.backward()
    assert network.head.output.weight.grad.abs().sum() > 0


# What is unfrozen


def test_the_last_block_alone_is_trained_without_batch_normalisation():
    network = classifier(unfreeze="last_block")
    before = snapshot(network)
    steps(network, 2)
    convolutions = {k for k in before if "layer4" in k and ("conv" in k or "downsample.0" in k)}
    head = {key for key in before if key.startswith("head.")}
    assert changed(network, before) == convolutions | head


def test_all_is_trained_without_batch_normalisation():
    network = classifier(unfreeze="all")
    norms = {
        f"backbone.network.{name}"
        for name, module in network.backbone.network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    before = snapshot(network)
    steps(network, 1)
    expected = {key for key in before if key.rpartition(".")[0] not in norms}
    assert changed(network, before) == expected


@pytest.mark.parametrize("unfreeze", ["last_block", "all"])
def test_train_bn_trains_batch_normalisation_where_it_is_unfrozen(unfreeze):
    network = classifier(unfreeze=unfreeze, train_bn=True)
    before = snapshot(network)
    steps(network, 1)
    part = "backbone.network.layer4" if unfreeze == "last_block" else "backbone."
    expected = {key for key in before if key.startswith((part, "head."))}
    assert changed(network, before) == expected


def test_an_unfrozen_backbone_has_the_handwritten_gradients():
    network = classifier(unfreeze="all", train_bn=True).train()
    theirs = by_hand(network).train()
    images, labels = batch(8)
    for each in (network, theirs):
        cross_entropy(each(images), labels).backward()
    ours, other = network.backbone.network.conv1.weight.grad, theirs[0].conv1.weight.grad
    torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)


def test_unfreezing_and_freezing_again():
    network = classifier().train()
    images, labels = batch()
    network(images)  # what was computed in inference mode must not be in the way later
    assert network.frozen_backbone
    network.unfreeze("all")
    assert not network.frozen_backbone
    cross_entropy(network(images), labels).backward()
    assert network.backbone.network.conv1.weight.grad is not None
    assert network.backbone.network.training
    assert not network.backbone.network.bn1.training

    network.unfreeze("last_block")
    assert network.backbone.network.conv1.weight.grad is None
    assert network.backbone.network.layer4[0].conv1.weight.grad is not None
    network.unfreeze("head")
    assert not any(p.requires_grad for p in network.backbone.parameters())
    assert not any(m.training for m in network.backbone.modules())
    before = snapshot(network.backbone)
    steps(network, 2)
    assert changed(network.backbone, before) == set()


def test_unfreezing_in_eval_mode_trains_nothing_yet():
    network = classifier().eval()
    network.unfreeze("all")
    assert not any(module.training for module in network.modules())


def test_a_depth_that_is_none_is_refused():
    with pytest.raises(DiscernError, match=r"^model\.unfreeze=half is not allowed; it must be hea"):
        classifier().unfreeze("half")


# Stages

LAST = {
    "resnet18": ["layer4", "avgpool", "fc"],
    "densenet121": ["features.denseblock4", "features.norm5", "classifier"],
    "efficientnet_b0": ["features.7", "features.8", "avgpool", "classifier"],
    "vit_b_16": [
        "encoder.layers.encoder_layer_10", "encoder.layers.encoder_layer_11", "encoder.ln", "heads",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LAST)
def test_the_last_stages_are_those_one_would_name(name):
    with torch.device("meta"):
        network = models.get_model(name)
    setattr(network, LAST[name][-1], nn.Identity())
    names = {id(module): name for name, module in network.named_modules()}
    assert [names[id(stage)] for stage in last_stages(network)] == LAST[name]


def test_a_stage_that_is_nearly_everything_is_taken_apart():
    """As in EfficientNet-Lite, whose blocks stand before a convolution of an eighth of it all."""
    blocks = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(9))
    network = nn.Sequential(nn.Linear(1, 1), blocks, nn.Linear(10, 12, bias=False))
    assert last_stages(network) == [blocks[8], network[2]]


@pytest.mark.parametrize("train_bn", [False, True])
@pytest.mark.parametrize("unfreeze", DEPTHS)
def test_parameter_groups_hold_each_parameter_once_at_every_depth(unfreeze, train_bn):
    network = classifier(unfreeze=unfreeze, train_bn=train_bn)
    groups = network.parameter_groups()
    assert [name for name, _ in groups] == ["head", "last_block", "rest"]
    ids = [id(parameter) for _, parameters in groups for parameter in parameters]
    assert len(ids) == len(set(ids))

    norms = [m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    left_out = set() if train_bn else {id(p) for norm in norms for p in norm.parameters()}
    assert set(ids) == {id(p) for p in network.parameters()} - left_out

    by_name = {name: {id(p) for p in parameters} for name, parameters in groups}
    assert by_name["head"] == {id(p) for p in network.head.parameters()}
    layer4 = {id(p) for p in network.backbone.network.layer4.parameters()}
    assert by_name["last_block"] == layer4 - left_out
    trained = set(list(by_name)[: DEPTHS.index(unfreeze) + 1])
    for name, parameters in groups:
        assert all(p.requires_grad == (name in trained) for p in parameters)


def test_parameters_outside_every_layer_are_in_the_rest():
    """Such as the positions of a vision transformer."""
    network = classifier("test_vit", library="timm")
    rest = {id(p) for p in dict(network.parameter_groups())["rest"]}
    assert id(network.backbone.network.cls_token) in rest
    network.unfreeze("all")
    assert network.backbone.network.pos_embed.requires_grad


# Images


def test_grey_images_are_repeated():
    network = classifier().eval()
    grey = torch.randn(2, 1, 64, 64)
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))
    assert TransferClassifier((1, 64, 64), 5, backbone="resnet18", weights=None)(grey).shape[1] == 5


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    with pytest.raises(DiscernError, match=rf"images of {channels} channels; a backbone takes 1"):
        TransferClassifier((channels, 64, 64), 5, backbone="resnet18", weights=None)
    with pytest.raises(DiscernError, match=rf"images of {channels} channels"):
        classifier()(torch.zeros(1, channels, 64, 64))


@pytest.mark.parametrize(("height", "width"), [(28, 28), (63, 80)])
def test_small_images_are_scaled_up_to_the_backbone_s_size(height, width):
    network = classifier("squeezenet1_1").eval()
    images = torch.randn(2, 3, height, width)
    scaled = interpolate(images, (224, 224), mode="bilinear", antialias=False)
    torch.testing.assert_close(network(images), network(scaled))


def test_larger_images_keep_their_size():
    network = classifier().eval()
    images = torch.randn(2, 3, 64, 96)
    expected = by_hand(network).eval()(images)
    torch.testing.assert_close(network(images), expected, rtol=1e-6, atol=1e-6)


def test_images_that_the_backbone_does_not_take_are_refused_before_training():
    with pytest.raises(
        DiscernError, match=r"^model\.backbone=test_vit does not take images of 100"
    ):
        TransferClassifier((3, 100, 100), 5, library="timm", backbone="test_vit", weights=None)
    TransferClassifier((3, 32, 32), 5, library="timm", backbone="test_vit", weights=None)


def test_the_backbone_runs_with_the_channels_last():
    network = classifier()
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(batch()[0])
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    weight = network.backbone.network.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


# Building, copying, saving


def test_the_head_is_the_mlp_of_its_settings():
    network = classifier(head=[7, 6], activation="tanh", dropout=0.5, norm="batch")
    assert isinstance(network.head, MLP)
    assert {key for key in network.state_dict() if key.startswith("head.")} >= {
        "head.hidden.0.weight", "head.norms.1.running_mean", "head.output.weight",
    }  # fmt: skip
    assert network.head.hidden[0].weight.shape == (7, 512)
    images, _ = batch()
    features = network.eval().features(images)
    torch.testing.assert_close(network(images), network.head(features))
    network.train()
    assert not torch.equal(network(images), network(images)), "no dropout in the head"


def test_it_is_built_on_the_meta_device_and_given_its_weights():
    before = classifier(unfreeze="last_block").eval()
    with torch.device("meta"):
        # The published weights are neither needed nor looked for: they would be replaced.
        after = classifier(weights="default", unfreeze="last_block")
    assert after.head.output.weight.device.type == "meta"
    fill(after, before.state_dict(), "given")
    images, _ = batch()
    assert torch.equal(after.eval()(images), before(images))
    assert after.backbone.digest() == before.backbone.digest()
    steps(after, 1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
@pytest.mark.parametrize(
    ("library", "name"),
    [("torchvision", "resnet18"), ("timm", "test_resnet"), ("efficientnet_lite", None)],
)
def test_copies_work_and_share_nothing(copied, library, name):
    network = classifier(name or "efficientnet_lite0", library=library, unfreeze="last_block")
    images, _ = batch()
    network.eval()
    again = copied(network)
    assert torch.equal(again(images), network(images))
    before = snapshot(network)
    again.unfreeze("all")
    steps(again, 1)
    assert changed(network, before) == set()
    assert network.depth == "last_block"


def test_the_same_seed_gives_the_same_head_whatever_the_weights(tmp_path):
    torch.save(models.resnet18().state_dict(), tmp_path / "weights.pth")
    random, given = classifier(), classifier(weights=str(tmp_path / "weights.pth"))
    assert torch.equal(random.head.output.weight, given.head.output.weight)
    assert not torch.equal(
        random.backbone.network.conv1.weight, given.backbone.network.conv1.weight
    )


def test_weights_of_a_trained_classifier_serve_another_number_of_classes(tmp_path):
    first = classifier(unfreeze="all")
    steps(first, 1)
    write({"state_dict": first.state_dict()}, tmp_path / "best.safetensors")
    second = TransferClassifier(
        SHAPE, 9, backbone="resnet18", weights=str(tmp_path / "best.safetensors"), head=[]
    )
    assert second.backbone.digest() == first.backbone.digest()


# Configs


@pytest.mark.parametrize(
    ("choice", "library", "backbone"),
    [
        ("densenet_transfer", "torchvision", "densenet121"),
        ("resnet_transfer", "torchvision", "resnet50"),
        ("vit_transfer", "torchvision", "vit_b_16"),
        ("timm_transfer", "timm", "resnet18.a1_in1k"),
        ("efficientnet_lite_transfer", "efficientnet_lite", "efficientnet_lite0"),
    ],
)
def test_every_choice_names_a_backbone_and_the_same_head(choice, library, backbone):
    with initialize_config_dir(str(conf_dir() / "model"), version_base="1.3"):
        cfg = compose(choice)
    assert cfg._target_ == "discern.models.transfer.TransferClassifier"
    assert (cfg.library, cfg.backbone, cfg.weights) == (library, backbone, "default")
    arguments = inspect.signature(TransferClassifier).parameters.keys()
    settings = {name: cfg[name] for name in arguments - {"input_shape", "num_classes"}}
    network = TransferClassifier((3, 224, 224), 6, **{**settings, "weights": None})
    assert network.frozen_backbone
    assert [layer.out_features for layer in network.head.hidden] == [256]
    assert network.head.dropout.p == 0.2


class Necked(TransferClassifier):
    """As a user may extend it."""

    def __init__(self, *args, **settings) -> None:
        super().__init__(*args, **settings)
        self.neck = nn.Dropout(0.5)


@pytest.mark.parametrize("unfreeze", DEPTHS)
def test_every_part_of_an_extended_classifier_is_told_of_training(unfreeze):
    network = Necked(SHAPE, 5, backbone="resnet18", weights=None, unfreeze=unfreeze)
    for mode in (True, False, True, False):
        network.train(mode)
        assert (network.training, network.head.training, network.neck.training) == (mode,) * 3
        assert network.backbone.training is (mode and unfreeze == "all")
        assert any(m.training for m in network.backbone.modules()) is (mode and unfreeze != "head")


def test_a_backbone_that_keeps_something_for_evaluation_forgets_it_in_training():
    # LeViT's attention keeps its biases in eval mode until its own train() is called.
    network = TransferClassifier(
        (3, 224, 224), 5, "timm", "levit_128s", weights=None, unfreeze="all", train_bn=True
    )
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        network.eval()
        before = network(images)
        network.train()
        for name, parameter in network.backbone.named_parameters():
            if "attention_biases" in name:
                parameter.normal_()
        network.eval()
        assert not torch.equal(network(images), before)
