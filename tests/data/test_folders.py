from __future__ import annotations

import csv
import io
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discern.data.folders import Listing, list_folder
from discern.data.part_names import part_of
from discern.errors import DiscernError
from discern.files.csv_cells import write_csv


def tree(folder: Path, *files: str) -> Path:
    """Empty files; a name that ends in a slash is a folder."""
    folder.mkdir(exist_ok=True)
    for name in files:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return folder


def shown(listing: Listing, folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Part -> name of each file and its label."""
    return {
        part: [(os.fsdecode(entry.path.relative_to(folder)), entry.label) for entry in files]
        for part, files in listing.parts.items()
    }


def refusal(folder: Path, table: str | None = None) -> str:
    """The one sentence by which the folder is refused."""
    with pytest.raises(DiscernError) as refused:
        list_folder(folder, table)
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


# A folder a class


def test_classes_are_folders_and_files_come_in_their_order(tmp_path):
    tree(tmp_path, "dog/b.jpg", "dog/a.jpg", "cat/x/2.jpg", "cat/1.jpg")
    assert shown(list_folder(tmp_path), tmp_path) == {
        "train": [
            ("cat/1.jpg", "cat"),
            ("cat/x/2.jpg", "cat"),
            ("dog/a.jpg", "dog"),
            ("dog/b.jpg", "dog"),
        ]
    }


def test_what_is_hidden_or_empty_is_passed_over(tmp_path):
    tree(
        tmp_path,
        "cat/a.jpg",
        "cat/.DS_Store",
        "cat/.thumbs/a.jpg",
        ".git/a.jpg",
        "empty/",
        "__MACOSX/cat/._a.jpg",
    )
    listing = list_folder(tmp_path)
    assert shown(listing, tmp_path) == {"train": [("cat/a.jpg", "cat")]}
    assert listing.strays == []


def test_files_beside_the_classes_are_strays(tmp_path):
    tree(tmp_path, "cat/a.jpg", "photo.jpg", "README.md", "train")
    listing = list_folder(tmp_path)
    assert [path.name for path in listing.strays] == ["README.md", "photo.jpg", "train"]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "VALIDATION"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Train", "TEST")])
def test_parts_are_told_by_their_names(tmp_path, train, val, test):
    tree(tmp_path, f"{train}/cat/a.jpg", f"{val}/cat/b.jpg", f"{test}/cat/c.jpg", "README.md")
    assert shown(list_folder(tmp_path), tmp_path) == {
        "train": [(f"{train}/cat/a.jpg", "cat")],
        "val": [(f"{val}/cat/b.jpg", "cat")],
        "test": [(f"{test}/cat/c.jpg", "cat")],
    }


def test_an_empty_part_is_as_good_as_none(tmp_path):
    tree(tmp_path, "train/cat/a.jpg", "val/", "test/cat/")
    assert list(list_folder(tmp_path).parts) == ["train"]


def test_files_beside_the_classes_of_a_part_are_strays(tmp_path):
    tree(tmp_path, "train/cat/a.jpg", "train/b.jpg", "test/c.jpg")
    assert {path.name for path in list_folder(tmp_path).strays} == {"b.jpg", "c.jpg"}


@pytest.mark.parametrize(
    "files",
    [
        ("bus/a.jpg", "train/b.jpg", "test/c.jpg"),
        ("bus/a.jpg", "car/b.jpg", "Train/c.jpg"),
        ("bus/a.jpg", "car/b.jpg", "test images/c.jpg"),
        ("bus/a.jpg", "train/car/b.jpg", "train/bus/c.jpg"),
        ("train/bus/a.jpg", "train/train/b.jpg", "test/bus/c.jpg", "test/train/d.jpg"),
        ("valid/a.jpg", "invalid/b.jpg"),
        ("train/cat/a.jpg", "eval/cat/b.jpg"),
        ("flowers_train/rose/a.jpg", "flowers/rose/b.jpg"),
    ],
)
def test_a_folder_that_may_be_a_part_or_a_class_is_asked_about(tmp_path, files):
    sentence = refusal(tree(tmp_path, *files))
    assert "cannot be told whether these are parts of the data set or classes" in sentence
    assert "data.parts=none" in sentence


def test_a_class_may_be_called_train_or_test_where_it_is_said(tmp_path):
    tree(tmp_path, "bus/a.jpg", "train/b.jpg", "test/c.jpg")
    labels = {entry.label for entry in list_folder(tmp_path, parts="none").parts["train"]}
    assert labels == {"bus", "test", "train"}
    tree(tmp_path, "p/train/train/a.jpg", "p/train/bus/b.jpg", "p/other/bus/c.jpg", "p/rest/d.jpg")
    listing = list_folder(tmp_path / "p", parts={"train": "train", "test": "other"})
    assert shown(listing, tmp_path / "p") == {
        "train": [("train/bus/b.jpg", "bus"), ("train/train/a.jpg", "train")],
        "test": [("other/bus/c.jpg", "bus")],
    }
    assert any("rest is passed over" in doubt for doubt in listing.doubts)
    with pytest.raises(DiscernError, match=r"data\.parts\.val=gone is no folder in data\.dir"):
        list_folder(tmp_path / "p", parts={"train": "train", "val": "gone"})


def test_classes_beside_a_folder_that_is_said_to_be_a_part(tmp_path):
    tree(tmp_path, "cat/a.jpg", "dog/b.jpg", "test/1.jpg", "test/2.jpg")
    listing = list_folder(tmp_path, parts={"train": ".", "test": "test"})
    assert {p: {e.label for e in files} for p, files in listing.parts.items()} == {
        "train": {"cat", "dog"}
    }


DRESSES = {
    "train": ["train", "TRAIN", "Training", "train_images", "trainset", "train-set", "TrainData"],
    "val": ["val", "Valid", "validation", "dev", "val_images", "validation split", "VALSET"],
    "test": ["test", "Testing", "TEST", "holdout", "hold-out", "test_images", "TestSet"],
}


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("number", range(7))
def test_parts_are_told_in_any_dress(tmp_path, part, number):
    train, other = DRESSES["train"][number], DRESSES[part][number]
    tree(tmp_path, f"{train}/cat/a.jpg", f"{other}/cat/b.jpg")
    listing = list_folder(tmp_path)
    assert shown(listing, tmp_path) == {
        "train": [(f"{train}/cat/a.jpg", "cat")],
        part: [(f"{other}/cat/b.jpg", "cat")],
    }
    for name in (train, other):
        plain = name.lower() in ("train", "val", "valid", "validation", "test")
        assert plain or any(name in guess for guess in listing.guesses)


# As they are handed out: the files, and what is found, or what the refusal says.
LAYOUTS = {
    "chest_xray": (
        ["x/x/train/sick/a.jpg", "x/x/train/well/a.jpg", "x/x/test/sick/b.jpg", "x/__MACOSX/._a"],
        {"train": {"sick", "well"}, "test": {"sick"}},
    ),
    "chest_xray, twice": (
        ["x/x/train/sick/a.jpg", "x/train/sick/a.jpg", "x/train/well/b.jpg", "x/val/well/c.jpg"],
        {"train": {"sick", "well"}, "val": {"well"}},
    ),
    "intel": (
        ["seg_train/seg_train/sea/a.jpg", "seg_test/seg_test/sea/b.jpg", "seg_pred/seg_pred/1.jpg"],
        {"train": {"sea"}, "test": {"sea"}},
    ),
    "brain tumour": (
        ["archive/Training/glioma/a.jpg", "archive/Testing/glioma/b.jpg"],
        {"train": {"glioma"}, "test": {"glioma"}},
    ),
    "cats and dogs": (
        ["dataset/training_set/cats/a.jpg", "dataset/test_set/cats/b.jpg",
         "dataset/single_prediction/c.jpg"],
        {"train": {"cats"}, "test": {"cats"}},
    ),
    "food": (
        ["training/egg/a.jpg", "validation/egg/b.jpg", "evaluation/egg/c.jpg"],
        {"train": {"egg"}, "val": {"egg"}, "test": {"egg"}},
    ),
    "medical": (["imagesTr/a/1.png", "imagesTs/a/2.png"], {"train": {"a"}, "test": {"a"}}),
    "joined": (["cartrain/a/1.png", "cartest/a/2.png"], {"train": {"a"}, "test": {"a"}}),
    "pets": (["PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg", "read.me"], {"train": {"Cat", "Dog"}}),
    "a project": (["my_test/train/a/1.png", "my_test/val/a/2.png"], {"train": {"a"}, "val": {"a"}}),
    "images": (
        ["train/images/cat/a.jpg", "test/images/cat/b.jpg"], {"train": {"cat"}, "test": {"cat"}}
    ),
    "words": (
        ["test_tube/a.jpg", "validated/a.jpg", "device/a.jpg", "trainer/a.jpg", "holdouts/a.jpg",
         "bullet_train/a.jpg", "contest/a.jpg", "protest/a.jpg"],
        {"train": {"test_tube", "validated", "device", "trainer", "holdouts", "bullet_train",
                   "contest", "protest"}},
    ),
    "counted": (["class_1/a.jpg", "class_2/a.jpg"], {"train": {"class_1", "class_2"}}),
    "numbers": (["0/a.jpg", "1/a.jpg"], {"train": {"0", "1"}}),
    "shards": (["images_part_1/a.jpg", "images_part_2/b.jpg"], "look like pieces of a data set"),
    "HAM10000": (["HAM_images_part_1/a.jpg", "HAM_images_part_2/b.jpg"], "look like pieces"),
    "folds": (["fold1/a/1.jpg", "fold2/a/2.jpg"], "look like pieces of a data set"),
    "masks": (["images/a.jpg", "masks/a.png"], "look like pieces of a data set"),
    "in train": (["train/part1/a.jpg", "train/part2/b.jpg"], "look like pieces of a data set"),
    "places": (["here/cat/a.jpg", "here/dog/b.jpg", "there/cat/c.jpg", "there/dog/d.jpg"],
               "all have the same folders in them (cat, dog)"),
    "class first": (["cat/train/a.jpg", "cat/test/b.jpg", "dog/train/c.jpg", "dog/test/d.jpg"],
                    "have parts of the data set in them, such as cat/test"),
    "shares": (["train1/a/1.jpg", "train2/a/2.jpg"], "more than one folder for the same part"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_in_which_data_sets_are_handed_out(tmp_path, name):
    files, expected = LAYOUTS[name]
    tree(tmp_path, *files)
    if isinstance(expected, str):
        assert expected in refusal(tmp_path)
        return
    listing = list_folder(tmp_path)
    found = {part: {entry.label for entry in files} for part, files in listing.parts.items()}
    assert found == expected


@given(
    names=st.lists(
        st.tuples(
            st.sampled_from([word for words in DRESSES.values() for word in words]),
            st.sampled_from(["{}", "{}_1", "x_{}", "{} images", "data/{}", "{0}/{0}", "{}/images"]),
        ),
        min_size=1, max_size=4,
    ),
    depth=st.sampled_from(["", "archive/", "archive/archive/"]),
    classes=st.lists(st.sampled_from(["cat", "dog", "10", "test_tube"]), min_size=1, max_size=3,
                     unique=True),
    beside=st.lists(st.sampled_from(["cat", "readme.md", "labels.csv", "seg_pred"]), max_size=2),
)  # fmt: skip
def test_no_part_in_any_dress_becomes_a_class(names, depth, classes, beside):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, dress in names:
            tree(folder, *(f"{depth}{dress.format(name)}/{label}/1.jpg" for label in classes))
        tree(folder, *(f"{depth}{n}" if "." in n else f"{depth}{n}/1.jpg" for n in beside))
        try:
            listing = list_folder(folder)
        except DiscernError:
            return
        labels = {entry.label for files in listing.parts.values() for entry in files}
        assert labels <= {*classes, *beside}
        assert not any(map(part_of, labels))


def test_what_is_passed_over_is_named(tmp_path):
    tree(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "seg_pred/c.jpg", "test/d.jpg")
    (tmp_path / "notes.csv").write_text("who,when\nme,now\n")
    doubts = "\n".join(list_folder(tmp_path).doubts)
    for said in ("seg_pred is passed over", "test is passed over", "notes.csv is not read",
                 "has the columns who, when"):  # fmt: skip
        assert said in doubts


def test_classes_that_are_doubtful_are_named(tmp_path):
    many = [f"cat/{number}.jpg" for number in range(50)]
    tree(tmp_path, *many, "Cat/0.jpg", "images/0.jpg", "bullet_train/0.jpg")
    doubts = "\n".join(list_folder(tmp_path).doubts)
    for said in ("The classes Cat and cat differ in nothing but capitals", "The class images is",
                 "The class bullet_train has a word in its name that may mean a part"):  # fmt: skip
        assert said in doubts
    assert "nearly all" not in doubts
    tree(tmp_path, *(f"cat/{number}.jpg" for number in range(50, 100)))
    assert any("cat has 100 of 103" in doubt for doubt in list_folder(tmp_path).doubts)


def test_one_name_in_two_normal_forms_is_one_class(tmp_path):
    tree(tmp_path, "caf\u00e9/b.jpg", "cafe\u0301/a.jpg", "tea/c.jpg")
    listing = list_folder(tmp_path)
    assert [entry.label for entry in listing.parts["train"]] == ["caf\u00e9"] * 2 + ["tea"]
    assert any("spelled in other bytes" in guess for guess in listing.guesses)


@pytest.mark.parametrize(
    "files",
    [
        ("val/cat/a.jpg", "test/cat/b.jpg"),
        ("cat/a.jpg", "test/cat/b.jpg"),
        ("train/", "test/cat/b.jpg"),
        ("train/cat.0.jpg", "test/1.jpg"),  # as Kaggle hands it out: train and test are no classes
        ("Test/cat/b.jpg",),
    ],
)
def test_parts_without_training_classes_are_no_classes(tmp_path, files):
    sentence = refusal(tree(tmp_path, *files))
    assert "but no train/ with a folder for each class in it" in sentence
    assert "'data.parts={train:FOLDER,val:FOLDER,test:FOLDER}' says where the parts" in sentence


def test_two_folders_for_one_part_are_refused(tmp_path):
    tree(tmp_path, "train/cat/a.jpg", "val/cat/a.jpg", "valid/cat/a.jpg")
    assert "more than one folder for the same part (val, valid)" in refusal(tmp_path)


def test_names_in_any_script(tmp_path):
    tree(tmp_path, "猫/ą.jpg", "chó con/b c.jpg", "-rf/'\".jpg", "a,b/\n.jpg")
    labels = {entry.label for entry in list_folder(tmp_path).parts["train"]}
    assert labels == {"猫", "chó con", "-rf", "a,b"}


def test_names_that_are_no_utf8_are_found_and_their_labels_can_be_written(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.jpg")).touch()
    (entry,) = list_folder(tmp_path).parts["train"]
    assert entry.label == "caf\\xe9"
    assert entry.path.is_file()


# Links


def test_links_to_files_and_folders_are_followed(tmp_path):
    tree(tmp_path / "elsewhere", "a.jpg", "more/b.jpg")
    folder = tree(tmp_path / "data", "cat/")
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (folder / "cat" / "a.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    assert shown(list_folder(folder), folder)["train"] == [
        ("cat/a.jpg", "cat"),
        ("cat/more/b.jpg", "cat"),
        ("dog/a.jpg", "dog"),
        ("dog/more/b.jpg", "dog"),
    ]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "../dog", "/"])
def test_a_link_in_a_class_does_not_make_it_of_what_is_not_in_it(tmp_path, target):
    tree(tmp_path, "outside.jpg", "data/set/cat/a.jpg", "data/set/dog/b.jpg")
    folder = tmp_path / "data" / "set"
    (folder / "cat" / "loop").symlink_to(target)
    assert shown(list_folder(folder), folder)["train"] == [
        ("cat/a.jpg", "cat"),
        ("dog/b.jpg", "dog"),
    ]


def test_a_link_to_the_folder_itself_is_no_class(tmp_path):
    tree(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "nothing").symlink_to("nothing")
    labels = {entry.label for entry in list_folder(tmp_path).parts["train"]}
    assert labels == {"cat", "dog"}


# What is no folder


@pytest.mark.parametrize("name", ["nowhere", "nowhere/below", "x" * 5000, "a\0b"])
def test_a_folder_that_is_not_there_is_refused(tmp_path, name):
    assert "does not exist; it must be a folder" in refusal(tmp_path / name)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "is a file; it must be a folder" in refusal(tmp_path / "file")
    assert "does not exist" in refusal(tmp_path / "file" / "below")


def test_a_folder_that_loses_its_reader_is_refused(tmp_path, monkeypatch):
    tree(tmp_path, "train/cat/a.jpg")
    listdir = os.listdir

    def closed(path):
        if Path(path).name == "train":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", closed)
    assert "train cannot be read: Permission denied" in refusal(tmp_path)


# A CSV file


def table(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    tree(folder, "a.jpg", "b.jpg", "sub/c.jpg")
    content = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(content)
    return folder


def test_a_table_labels_the_files_of_a_flat_folder(tmp_path):
    table(tmp_path, "file,label\nb.jpg,cat\na.jpg,dog\nsub/c.jpg,cat\n")
    assert shown(list_folder(tmp_path), tmp_path) == {
        "train": [("b.jpg", "cat"), ("sub/c.jpg", "cat"), ("a.jpg", "dog")]
    }


def test_a_table_may_say_the_parts(tmp_path):
    table(
        tmp_path, "split,label,file,x\ntest,cat,a.jpg,1\nTrain,cat,b.jpg,2\nvalid,dog,sub/c.jpg\n"
    )
    assert shown(list_folder(tmp_path), tmp_path) == {
        "train": [("b.jpg", "cat")],
        "test": [("a.jpg", "cat")],
        "val": [("sub/c.jpg", "dog")],
    }


def test_without_a_word_for_the_part_a_file_is_for_training(tmp_path):
    table(tmp_path, "file,label,split\na.jpg,cat,\nb.jpg,dog\n")
    assert len(list_folder(tmp_path).parts["train"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffile,label\r\na.jpg,cat\r\n\r\n,\r\nb.jpg,dog\r\n",  # as Excel writes it
        ' file , label \n a.jpg , cat \n"b.jpg","dog"',
        "file,label,,\na.jpg,cat,,\nb.jpg,dog,,",
        "file,label\na.jpg,cat\n./a.jpg,cat\nb.jpg,dog\n",
    ],
)
def test_a_table_may_be_written_in_several_ways(tmp_path, text):
    table(tmp_path, text)
    assert shown(list_folder(tmp_path), tmp_path)["train"] == [("a.jpg", "cat"), ("b.jpg", "dog")]


def test_a_table_that_discern_has_written_is_read_as_it_was(tmp_path):
    content = io.StringIO()
    write_csv(content, [["file", "label"], ["=b.jpg", "@home"], ["a.jpg", "'-quoted"]])
    tree(tmp_path, "=b.jpg", "a.jpg")
    (tmp_path / "labels.csv").write_text(content.getvalue())
    assert shown(list_folder(tmp_path), tmp_path)["train"] == [
        ("a.jpg", "'-quoted"),
        ("=b.jpg", "@home"),
    ]


def test_a_table_may_name_files_elsewhere_and_of_any_bytes(tmp_path):
    strange = os.fsdecode(b"\xff.jpg")
    elsewhere = tree(tmp_path / "elsewhere", "x.jpg", strange)
    text = f"file,label\n{elsewhere}/x.jpg,cat\n../elsewhere/".encode() + b"\xff.jpg,caf\xe9\n"
    entries = list_folder(table(tmp_path / "data", text)).parts["train"]
    assert [(entry.path.is_file(), entry.label) for entry in entries] == [
        (True, "caf\\xe9"),
        (True, "cat"),
    ]


def test_a_table_goes_before_folders_and_one_that_is_named_before_others(tmp_path):
    table(tmp_path, "file,label\na.jpg,from the table\n")
    table(tmp_path, "file,label\nb.jpg,from the other\n", "other.csv")
    table(tmp_path, "name,size\nb.jpg,7\n", "unrelated.csv")
    assert "several tables of files and labels (labels.csv, other.csv)" in refusal(tmp_path)
    (entry,) = list_folder(tmp_path, "other.csv").parts["train"]
    assert entry.label == "from the other"
    (tmp_path / "other.csv").unlink()
    (entry,) = list_folder(tmp_path).parts["train"]
    assert entry.label == "from the table"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,label\na.jpg,cat\ngone.jpg,dog\n", "gone.jpg, which cannot be found"),
        ("file,label\ngone.jpg,cat\nlost.jpg,dog\n", "gone.jpg and 1 more files, which cannot"),
        (f"file,label\n{'x' * 5000},cat\n", "which cannot be found"),
        ("file,label\na\0.jpg,cat\n", "which cannot be found"),
        ("file,label\nsub,cat\n", "which cannot be found"),
        ("file,label\n/dev/zero,cat\n", "/dev/zero, which cannot be found"),
        ("file,label\na.jpg,\n", "line 2: a file or its label is missing"),
        ("file,label\n,cat\n", "line 2: a file or its label is missing"),
        ("file,label\na.jpg\n", "line 2: a file or its label is missing"),
        ("file,label\na.jpg,cat, big\n", "line 2: it has 3 cells for 2 columns"),
        ("file,label\na.jpg,cat\na.jpg,dog\n", "line 3: a.jpg is dog for train here and cat for"),
        ("file,label,split\na.jpg,cat,train\na.jpg,cat,test\n", "line 3: a.jpg is cat for test"),
        ("file,label,split\na.jpg,cat,tset\n", "split=tset is not allowed; it must be one of"),
        ('file,label\n"a.jpg,cat\n', "labels.csv cannot be read: unexpected end of data"),
        (f"file,label\n{'x' * 200_000},cat\n", "cannot be read: field larger than"),
        ("who;when\nme;now\n", "has the columns who, when: none is known to name files"),
        ("file,size\na.jpg,7\n", "has the columns file, size: none is known to have the labels"),
        ("file,class,dx\na.jpg,x,1\nb.jpg,x,2\n", "class and dx may be the labels, and differ"),
        ("file,cat,dog\na.jpg,1,1\nb.jpg,0,1\n", "in row 1 a picture is of cat and dog"),
        ("file,cat,dog\na.jpg,1,0\nb.jpg,0,0\n", "in row 2 a picture is of none of them"),
        ("file,label,is_valid\na.jpg,cat,perhaps\n", "is_valid=perhaps is not allowed"),
        ('"wh\no","\x1bwhen"\n', r"has the columns wh\no, \x1bwhen: none"),
        ('file,label,split\na.jpg,cat,"t\nset"\n', r"split=t\nset is not allowed; it must be"),
        ("", "has the columns of an empty file"),
    ],
)
def test_a_table_with_a_mistake_is_refused(tmp_path, text, reason):
    assert reason in refusal(table(tmp_path, text), "labels.csv")


@pytest.mark.parametrize(
    "text",
    [
        "file,label" + ",x" * 60_000 + "\n" + "a.jpg,cat\n" * 2_000,
        "file,label" + "," * 21_000_000,
        "sep=x\nfilexlabel" + "x" * 21_000_000,
    ],
)
def test_a_table_of_too_many_cells_is_refused_before_it_takes_memory(tmp_path, text):
    folder = table(tmp_path, text)
    tracemalloc.start()
    try:
        assert "cannot be read: it has more than 20,000,000 cells" in refusal(folder, "labels.csv")
        assert tracemalloc.get_traced_memory()[1] < 300_000_000
    finally:
        tracemalloc.stop()


def test_a_table_that_cannot_be_opened_is_refused(tmp_path):
    folder = tree(tmp_path, "a.jpg", "folder.csv/")
    os.mkfifo(folder / "pipe.csv")
    assert "gone.csv cannot be read: No such file or directory" in refusal(folder, "gone.csv")
    assert "folder.csv cannot be read: it is no file" in refusal(folder, "folder.csv")
    assert "pipe.csv cannot be read: it is no file" in refusal(folder, "pipe.csv")
    assert list_folder(folder).parts == {"train": []}  # neither is found to be one


# Dialects

PLAIN = [("a.jpg", "cat", "train"), ("b.jpg", "dog", "train"), ("sub/c.jpg", "cat", "val")]


def found_in(folder: Path) -> dict[str, list[tuple[str, str]]]:
    return shown(list_folder(folder), folder)


EXPECTED = {"train": [("a.jpg", "cat"), ("b.jpg", "dog")], "val": [("sub/c.jpg", "cat")]}


@given(
    file=st.sampled_from(["file", "FileName", "image", "Image_ID", "id", "path", "Image Path"]),
    label=st.sampled_from(["label", "Class", "CATEGORY", "target", "Diagnosis", "dx", "one-hot"]),
    split=st.sampled_from(["split", "Data Set", "is_valid"]),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    end=st.sampled_from(["\n", "\r\n"]),
    shape=st.sampled_from(
        ["{}", "./{}", ".\\{}", "C:\\me\\data\\{}", "/home/me/data/{}", "no suffix"]
    ),
    quoted=st.booleans(),
    order=st.permutations([0, 1, 2]),
    others=st.booleans(),
)  # fmt: skip
def test_one_table_in_any_dialect_is_the_same(
    file, label, split, separator, encoding, end, shape, quoted, order, others
):
    one_hot = label == "one-hot"
    columns = [[file], ["cat", "dog"] if one_hot else [label], [split]]
    rows = []
    for name, kind, part in PLAIN:
        path = name.removesuffix(".jpg") if shape == "no suffix" else shape.format(name)
        path = path.replace("/", "\\") if "\\" in shape else path
        said = part if split != "is_valid" else str(part == "val")
        hot = ["1.0", "0.0"] if kind == "cat" else ["0.0", "1.0"]
        rows.append([[path], hot if one_hot else [kind], [said]])
    lines = [[cell for place in order for cell in row[place]] for row in [columns, *rows]]
    if others:
        lines = [
            [*line, text]
            for line, text in zip(lines, ["Age, in years", "7", "8", "9"], strict=True)
        ]
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting).writerows(lines)
    with tempfile.TemporaryDirectory() as place:
        folder = table(Path(place), text.getvalue().encode(encoding), "Labels.CSV")
        assert found_in(folder) == EXPECTED


TABLES = {
    "aptos": (
        ["train_images/0a.png", "train_images/1b.png", "test_images/2c.png"],
        {"train.csv": "id_code,diagnosis\n0a,0\n1b,4\n", "test.csv": "id_code\n2c\n",
         "sample_submission.csv": "id_code,diagnosis\n2c,0\n"},
        {"train": {"train_images/0a.png": "0", "train_images/1b.png": "4"}},
        ["test.csv is not read", "sample_submission.csv is not read", "test_images/2c.png"],
    ),
    "HAM10000": (
        ["HAM10000_images_part_1/0.jpg", "HAM10000_images_part_2/1.jpg"],
        {"HAM10000_metadata.csv": "lesion_id,image_id,dx,dx_type,age\nH_1,0,nv,histo,80.0\n"
                                  "H_2,1,mel,histo,\n"},
        {"train": {"HAM10000_images_part_1/0.jpg": "nv", "HAM10000_images_part_2/1.jpg": "mel"}},
        [],
    ),
    "dog breeds": (
        [f"train/{n}.jpg" for n in range(4)] + ["test/9.jpg"],
        {"labels.csv": "id,breed\n0,pug\n1,corgi\n2,pug\n3,corgi\n"},
        {"train": {f"train/{n}.jpg": ["pug", "corgi"][n % 2] for n in range(4)}},
        ["test/9.jpg"],
    ),
    "whales": (
        [f"train/{n}.jpg" for n in range(4)],
        {"train.csv": "Image,Id\n0.jpg,new_whale\n1.jpg,w_1\n2.jpg,new_whale\n3.jpg,w_1\n"},
        {"train": {f"train/{n}.jpg": ["new_whale", "w_1"][n % 2] for n in range(4)}},
        ["the column Image has the files, Id the labels"],
    ),
    "cifar": (
        [f"{part}/{n}.png" for part in ("train", "test") for n in (1, 2)],
        {"trainLabels.csv": "id,label\n1,frog\n2,truck\n"},
        {"train": {"train/1.png": "frog", "train/2.png": "truck"}},
        ["test/1.png"],
    ),
    "fastai": (
        ["train/0.png", "train/1.png", "valid/2.png"],
        {"labels.csv": "name,label,is_valid\ntrain/0.png,3,0\ntrain/1.png,7,0\nvalid/2.png,3,1\n"},
        {"train": {"train/0.png": "3", "train/1.png": "7"}, "val": {"valid/2.png": "3"}},
        [],
    ),
    "isic": (
        ["ISIC_Training_Input/I_0.jpg", "ISIC_Training_Input/I_1.jpg"],
        {"ISIC_Training_GroundTruth.csv": "image,MEL,NV,UNK\nI_0,1.0,0.0,0.0\nI_1,0.0,1.0,0.0\n",
         "ISIC_Training_Metadata.csv": "image,sex\nI_0,female\nI_1,male\n"},
        {"train": {"ISIC_Training_Input/I_0.jpg": "MEL", "ISIC_Training_Input/I_1.jpg": "NV"}},
        ["each class has a column (MEL, NV, UNK)", "ISIC_Training_Metadata.csv is not read"],
    ),
    "birds": (
        ["train/OWL/0.jpg", "train/EMU/0.jpg", "test/EMU/0.jpg"],
        {"birds.csv": "class id,filepaths,labels,data set\n0,train/OWL/0.jpg,OWL,train\n"
                      "1,train/EMU/0.jpg,EMU,train\n1,test/EMU/0.jpg,EMU,test\n"},
        {"train": {"train/OWL/0.jpg": "OWL", "train/EMU/0.jpg": "EMU"},
         "test": {"test/EMU/0.jpg": "EMU"}},
        ["the column labels has the labels; class id is not read"],
    ),
    "a table a part": (
        [f"images/{n}.jpg" for n in range(3)],
        {"train.csv": "image,label\n0,a\n1,b\n", "test.csv": "image,label\n2,a\n"},
        {"train": {"images/0.jpg": "a", "images/1.jpg": "b"}, "test": {"images/2.jpg": "a"}},
        ["test.csv is taken for the part test"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_they_are_handed_out(tmp_path, name):
    files, tables, expected, said = TABLES[name]
    tree(tmp_path, *files)
    for table_name, text in tables.items():
        (tmp_path / table_name).write_text(text)
    listing = list_folder(tmp_path)
    found = {part: dict(pairs) for part, pairs in shown(listing, tmp_path).items()}
    assert found == expected
    remarks = "\n".join([*listing.guesses, *listing.doubts])
    assert all(text in remarks for text in said)
    assert said or not listing.doubts


def test_a_name_that_two_files_have_needs_its_folder(tmp_path):
    tree(tmp_path, "one/1.jpg", "two/1.jpg", "two/2.jpg")
    (tmp_path / "t.csv").write_text("id,label\n1,cat\n2,dog\n")
    assert "line 2: 1 may be" in refusal(tmp_path)
    (tmp_path / "t.csv").write_text("path,label\nelsewhere/three/1,cat\ntwo/2,dog\n")
    assert "elsewhere/three/1, which cannot be found" in refusal(tmp_path)


def test_a_file_of_the_same_name_elsewhere_is_not_taken(tmp_path):
    tree(tmp_path, "train/cat/1.jpg", "test/cat/2.jpg", "dog/1.jpg")
    (tmp_path / "t.csv").write_text("file,label\ntrain/cat/1.jpg,cat\ntrain/cat/2.jpg,cat\n")
    assert "train/cat/2.jpg, which cannot be found" in refusal(tmp_path)


def test_a_table_that_is_not_understood_is_named_where_nothing_else_is(tmp_path):
    tree(tmp_path, "images/a.jpg", "images/b.jpg")
    (tmp_path / "t.csv").write_text("foo,bar\n1,2\n3,4\n")
    assert "t.csv is not read: it has the columns foo, bar" in refusal(tmp_path)
    tree(tmp_path / "flat", "a.jpg")
    (tmp_path / "flat" / "t.csv").write_text("foo,bar\n1,2\n3,4\n")
    assert "t.csv is not read: it has the columns foo, bar" in refusal(tmp_path / "flat")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"file", "label"\n"a.jpg", "cat, big"\n"b.jpg", "dog"\n', {"cat, big", "dog"}),
        ("image,cat,dog\na,True,False\nb,False,True\n", {"cat", "dog"}),
        ("file,label\ra.jpg,cat\rb.jpg,dog\r", {"cat", "dog"}),
    ],
    ids=["a space before quotes", "classes of true and false", "lines that end as on old Macs"],
)
def test_a_table_as_other_programs_write_it(tmp_path, text, expected):
    table(tmp_path, text)
    assert {entry.label for entry in list_folder(tmp_path).parts["train"]} == expected


@pytest.mark.parametrize("text", ["a.jpg,cat\nb.jpg,dog\nsub/c.jpg,cat\n", "cat;a\ndog;b\n"])
def test_a_table_without_names_of_columns_is_refused(tmp_path, text):
    sentence = refusal(table(tmp_path, text), "labels.csv")
    assert "its first line has a file in it, and must have the names of the columns" in sentence


def test_a_column_of_parts_that_are_not_all_known_is_not_passed_over(tmp_path):
    table(tmp_path, "file,label,Usage\na.jpg,cat,Training\nb.jpg,dog,PublicTest\n")
    assert "line 3: Usage=PublicTest is not allowed" in refusal(tmp_path)
    table(tmp_path, "file,label,set\na.jpg,cat,blue\nb.jpg,dog,red\n")
    listing = list_folder(tmp_path)
    assert len(listing.parts["train"]) == 2
    assert "labels.csv: the column set is not read." in listing.guesses


def test_columns_that_are_not_read_are_named(tmp_path):
    table(tmp_path, "file,label,fold,age\na.jpg,cat,0,7\nb.jpg,dog,1,8\n")
    assert list_folder(tmp_path).guesses == ["labels.csv: the columns fold, age are not read."]


def test_one_file_by_two_paths_is_one(tmp_path):
    name = tmp_path.name
    lines = ["a.jpg,cat", f"../{name}/a.jpg,cat", "sub/../b.jpg,dog", f"{tmp_path}/sub/c.jpg,dog"]
    table(tmp_path, "\n".join(["file,label", *lines]))
    for folder in (tmp_path, tmp_path / "sub" / ".."):
        listing = list_folder(folder)
        assert len(listing.parts["train"]) == 3
        assert listing.doubts == []
    table(tmp_path, f"file,label\na.jpg,cat\n../{name}/a.jpg,dog\n")
    assert "a.jpg is dog for train here and cat for train in a line before" in refusal(tmp_path)
