from __future__ import annotations

import pytest

from discern.errors import DiscernError
from discern.files.removing import remove_tree
from discern.files.walk import everything, find_files


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b.png",
        "a.png",
        "a/2.png",
        "a/10.jpg",
        "a/.hidden.png",
        ".hidden/x.png",
        "c.txt",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "photos" / "empty").mkdir()
    return tmp_path / "photos"


def found(tree, wanted: str) -> list[str]:
    return [str(path.relative_to(tree)) for path in find_files(str(tree / wanted))]


def test_a_folder_is_searched_to_the_bottom_in_order_but_for_what_is_hidden(tree):
    assert found(tree, ".") == ["a/10.jpg", "a/2.png", "a.png", "b.png", "c.txt"]


def test_a_pattern_names_files_and_no_folders(tree):
    assert found(tree, "*.png") == ["a.png", "b.png"]
    assert found(tree, "**/*.png") == ["a/2.png", "a.png", "b.png"]
    assert found(tree, "*") == ["a.png", "b.png", "c.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree):
    (tree / "[ab].png").write_bytes(b"")
    assert found(tree, "[ab].png") == ["[ab].png"]


def test_a_link_that_leads_to_itself_is_a_file_that_cannot_be_read(tree):
    (tree / "a" / "loop.png").symlink_to("loop.png")
    assert "a/loop.png" in found(tree, ".")


def test_folders_may_be_nested_deeper_than_calls(tree):
    deep = tree / "empty"
    for _ in range(1_200):
        deep /= "d"
        deep.mkdir()
    (deep / "x.png").write_bytes(b"")
    try:
        assert len(found(tree, ".")) == 6
        assert sum(entry.name in "dx.png" for entry in everything(tree)) >= 1_200
    finally:
        remove_tree(tree / "empty")  # which pytest cannot


def test_links_are_followed_once(tree):
    (tree / "a" / "up").symlink_to(tree)
    (tree / "link.png").symlink_to(tree / "a.png")
    (tree / "z").symlink_to(tree / "a")
    assert found(tree, ".") == ["a/10.jpg", "a/2.png", "a.png", "b.png", "c.txt", "link.png"]


def test_a_link_to_nothing_is_kept_so_that_it_is_reported(tree):
    (tree / "gone.png").symlink_to(tree / "nowhere")
    (tree / "circle.png").symlink_to("circle.png")
    assert {"gone.png", "circle.png"} <= {*found(tree, ".")}


@pytest.mark.parametrize("wanted", ["empty", "*.tif", "nowhere", "nowhere/*.png"])
def test_where_there_is_nothing_it_says_so(tree, wanted):
    with pytest.raises(DiscernError, match=r"^input=.*(without files|matches none); it must be"):
        next(find_files(str(tree / wanted)))
