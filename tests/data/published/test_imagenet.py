from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from torchvision.models import ResNet18_Weights

from discern.data.published.imagenet import ImageNetFolder
from discern.errors import DiscernError

OPTIONS = {"image_size": 8, "batch_size": 4, "num_workers": 0, "val_size": 0, "test_size": 0.5}
# Of the names, neither the alphabet's nor the numbers' order is the other's.
CRANE, DOG, TRUCK, CARDIGAN, MAILLOT, SUIT = WNIDS = [
    "n02012849", "n02113186", "n03126707", "n02963159", "n03710637", "n03710721",
]  # fmt: skip
MAPPING = """\
n01440764 tench, Tinca tinca
n02012849 crane
n02113186 Cardigan, Cardigan Welsh corgi
n02963159 cardigan
n03126707 crane
n03710637 maillot
n03710721 maillot, tank suit
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def picture(number: int) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (9, 8), (number % 256, number // 256, 0))
    image.save(file, "JPEG", comment=str(number))  # or some would be the same to the byte
    return file.getvalue()


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))


def official(wnids: list[str] = WNIDS, train: int = 4, val: int = 1) -> list[str]:
    names = [f"train/{wnid}/{wnid}_{n}.JPEG" for wnid in wnids for n in range(train)]
    return names + [
        f"val/{wnid}/ILSVRC2012_val_{wnid}{n}.JPEG" for wnid in wnids for n in range(val)
    ]


def ready(folder: Path, **options) -> ImageNetFolder:
    data = ImageNetFolder(dir=folder, **OPTIONS | options)
    data.prepare_data()
    data.setup()
    return data


def wnids_of(images) -> list[tuple[str, int]]:
    """The folder of each picture, and its label."""
    return [(Path(name).parent.name, int(images[i][1])) for i, name in enumerate(images.names())]


@pytest.mark.parametrize("inside", [".", "imagenet", "ILSVRC/Data/CLS-LOC"])
def test_val_is_the_test_and_validation_is_held_out_of_train(tmp_path, inside):
    put(tmp_path / inside, *official())
    data = ready(tmp_path, val_size=6)
    assert data.num_images == {"train": 18, "val": 6, "test": 6}
    assert all("/val/" in name for name in data.test_dataset.names())
    assert all("/train/" in name for name in data.val_dataset.names())


def test_labels_are_in_the_order_of_the_numbers(tmp_path):
    put(tmp_path, *official())
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    data = ready(tmp_path)
    for images in (data.train_dataset, data.test_dataset):
        assert all(sorted(WNIDS)[label] == wnid for wnid, label in wnids_of(images))


def test_kaggles_names_are_used_and_made_unique(tmp_path):
    put(tmp_path, *official([*WNIDS, "n01440764", "n09999999"]))
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    assert ready(tmp_path).class_names == [
        "tench",
        "crane (n02012849)",
        "Cardigan (n02113186)",
        "cardigan (n02963159)",
        "crane (n03126707)",
        "maillot (n03710637)",
        "maillot (n03710721)",
        "n09999999",
    ]


def test_a_class_is_its_number_where_nothing_names_it(tmp_path):
    put(tmp_path, *official())
    data = ready(tmp_path)
    assert data.class_names == sorted(WNIDS)
    assert data.title == "ImageNet, 6 classes"


def test_a_thousand_classes_are_not_named_unless_they_are_the_ones_of_2012(tmp_path):
    put(tmp_path, *official([f"n{number:08}" for number in range(1000)], train=1, val=0))
    data = ready(tmp_path, test_size=0)
    assert data.class_names[0] == "n00000000"


def test_the_thousand_classes_have_torchvisions_names(tmp_path):
    info = pytest.importorskip("timm.data").ImageNetInfo()
    wnids = info.label_names()
    put(tmp_path, *official(wnids, train=1, val=0))
    data = ready(tmp_path, test_size=0)
    assert data.title == "ImageNet"
    categories = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    differing = {
        name: category
        for name, category in zip(data.class_names, categories, strict=True)
        if name != category
    }
    assert differing == {"Cardigan (n02113186)": "Cardigan", "cardigan (n02963159)": "cardigan"}
    assert len(set(data.class_names)) == 1000
    assert data.class_names[wnids.index("n02099601")] == "golden retriever"


def test_kaggles_flat_val_gets_its_labels_and_its_test_is_passed_over(tmp_path):
    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    put(root, *official(val=0), *(f"val/ILSVRC2012_val_0000000{n}.JPEG" for n in range(1, 4)))
    put(root, "test/ILSVRC2012_test_00000001.JPEG")
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        f"ILSVRC2012_val_00000003,{CRANE} 85 1 499 272 \n"
        f"ILSVRC2012_val_00000001,{TRUCK} 131 0 499 254 1 2 3 4 \n"
    )
    data = ready(tmp_path)
    found = {Path(n).stem[-1]: data.class_names[data.test_dataset[i][1]]
             for i, n in enumerate(data.test_dataset.names())}  # fmt: skip
    assert found == {"3": CRANE, "1": TRUCK}
    assert [bad.path.name for bad in data.bad_files] == ["ILSVRC2012_val_00000002.JPEG"]


def test_a_flat_val_without_labels_is_told(tmp_path):
    put(tmp_path, *official(val=0), "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DiscernError, match=r"val has no folders of classes; it must have val/nXX"):
        ready(tmp_path)
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n")
    with pytest.raises(DiscernError, match="has no label for any of the pictures in"):
        ready(tmp_path)


@pytest.mark.parametrize("left", ["nothing", "val", "val and a class"])
def test_without_val_the_test_is_held_out_of_train(tmp_path, left):
    put(tmp_path, *official(val=0))
    if left != "nothing":
        (tmp_path / "val" / (CRANE if left == "val and a class" else ".")).mkdir(parents=True)
    assert ready(tmp_path).num_images == {"train": 12, "val": 0, "test": 12}


def test_what_is_no_class_is_not_used(tmp_path):
    put(tmp_path, *official(), "train/mine/a.JPEG", "train/n01440764.tar")
    data = ready(tmp_path)
    assert len(data.class_names) == 6
    assert {bad.path.name for bad in data.bad_files} == {"mine", "n01440764.tar"}


def test_a_class_of_val_that_train_has_not_is_told(tmp_path):
    put(tmp_path, *official(), "val/n01440764/a.JPEG")
    with pytest.raises(DiscernError, match=r"classes for test .* do not have: n01440764"):
        ready(tmp_path)


def test_a_class_without_a_picture_that_can_be_read_is_left_out(tmp_path):
    put(tmp_path, *official(val=0))
    for path in (tmp_path / "train" / sorted(WNIDS)[2]).iterdir():
        path.write_bytes(b"")
    data = ready(tmp_path, max_bad=0.5)
    assert data.class_names == [wnid for wnid in sorted(WNIDS) if wnid != sorted(WNIDS)[2]]


def test_a_table_takes_the_place_of_the_folders(tmp_path):
    put(tmp_path, *official())
    rows = [f"train/{w}/{w}_0.JPEG,{w},train" for w in (TRUCK, CRANE)]
    rows += [f"val/{w}/ILSVRC2012_val_{w}0.JPEG,{w},test" for w in (TRUCK, CRANE)]
    (tmp_path / "some.csv").write_text("\n".join(["file,label,split", *rows]))
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    data = ready(tmp_path, csv="some.csv")
    assert data.num_images == {"train": 2, "val": 0, "test": 2}
    assert data.class_names == ["crane (n02012849)", "crane (n03126707)"]


def test_names_that_are_no_text_are_told(tmp_path):
    put(tmp_path, *official())
    (tmp_path / "LOC_synset_mapping.txt").write_bytes(b"n02012849 \xff\xfe\n")
    with pytest.raises(DiscernError, match=r"LOC_synset_mapping\.txt cannot be read"):
        ready(tmp_path)


def test_a_folder_without_imagenet_is_told(tmp_path):
    put(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg")
    with pytest.raises(DiscernError, match=r"^data\.dir=.* has no ImageNet; it must be a folder"):
        ready(tmp_path)
    with pytest.raises(DiscernError, match=r"^data\.dir=.* does not exist"):
        ready(tmp_path / "nowhere")
