from __future__ import annotations

import os
from pathlib import Path

import pytest

from discern.data.folders import Listing, list_folder
from discern.errors import DiscernError


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


def test_a_class_may_be_called_train_or_test(tmp_path):
    tree(tmp_path, "bus/a.jpg", "train/b.jpg", "test/c.jpg")
    labels = {entry.label for entry in list_folder(tmp_path).parts["train"]}
    assert labels == {"bus", "test", "train"}


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
    assert "but no train/ with a folder for each class in it" in refusal(tree(tmp_path, *files))


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
        ("file;label\na.jpg;cat\n", "has the columns file;label; it must have file and label"),
        ("", "has the columns of an empty file"),
    ],
)
def test_a_table_with_a_mistake_is_refused(tmp_path, text, reason):
    assert reason in refusal(table(tmp_path, text), "labels.csv")


def test_a_table_that_cannot_be_opened_is_refused(tmp_path):
    folder = tree(tmp_path, "a.jpg", "folder.csv/")
    os.mkfifo(folder / "pipe.csv")
    assert "gone.csv cannot be read: No such file or directory" in refusal(folder, "gone.csv")
    assert "folder.csv cannot be read: it is no file" in refusal(folder, "folder.csv")
    assert "pipe.csv cannot be read: it is no file" in refusal(folder, "pipe.csv")
    assert list_folder(folder).parts == {"train": []}  # neither is found to be one
