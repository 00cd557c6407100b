"""What a published data set needs on the disk, and what of it would have to be downloaded.

Nothing heavy is imported, so that a run can be refused before torch is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from discern.data.place import check_folder, visible_names
from discern.data.published.in_torchvision import cifar_facts
from discern.data.published.publication import (
    DIMENSIONS,
    FASHION_MNIST,
    MNIST,
    Publication,
    Site,
    download_hint,
    fetch_folder,
    not_downloaded,
    root_of,
)
from discern.errors import DiscernError
from discern.files.places import expanded

PATIENCE = 1.5
"""Seconds that servers may take to answer before a run begins."""


Settings = Mapping[str, object]
"""Of a data set, checked."""


@dataclass(frozen=True)
class Source:
    """A data set in archives of one site, each with a folder or a file that is made of it.

    Attributes:
        title: for people.
        folder: its own in ``data.dir``.
        sign: a file in that folder, by which it is known.
        site: address and digests.
        made: file of the site -> what is made of it: a folder, or the file itself.
        max_bytes: limit for the files of an archive.
        advice: the end of a sentence on what a user without the files can do.
    """

    title: str
    folder: str
    sign: Path
    site: Site
    made: Mapping[str, str]
    max_bytes: int
    advice: str

    def root(self, folder: Path) -> Path:
        """The folder of its files, in or at ``folder``; see :func:`root_of`."""
        return root_of(folder, self.folder, self.sign)

    def lacking(self, root: Path) -> dict[str, Path]:
        """File of the site -> what would be made of it, of all that is not in ``root``."""
        paths = {name: root / made for name, made in self.made.items()}
        return {name: path for name, path in paths.items() if not path.exists()}

    def is_not_in(self, folder: Path) -> str:
        """The beginning of a sentence on missing files."""
        return f"{self.title} is not in {folder}"

    def download(self, folder: Path, site: Site) -> None:
        """Download and unpack what is missing.

        Args:
            folder: the setting ``data.dir``.
            site: where the files are.

        Raises:
            DiscernError: it cannot be downloaded.
        """
        from discern.data.published.fetch import fetch  # start-up time

        root = self.root(folder)
        for name, target in self.lacking(root).items():
            url, path, md5 = site.url + name, root / name, site.md5[name]
            if target == path:
                with download_hint(path, self.is_not_in(folder), self.advice):
                    fetch(url, path, md5=md5)
            else:
                fetch_folder(
                    url, path, target, max_bytes=self.max_bytes, md5=md5,
                    missing=self.is_not_in(folder), advice=self.advice,
                )  # fmt: skip


FLOWERS = Source(
    title="Oxford 102 Flowers",
    folder="flowers-102",
    sign=Path("imagelabels.mat"),
    site=Site(
        url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        md5={
            "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
            "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
            "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
        },
    ),
    made={
        "imagelabels.mat": "imagelabels.mat",
        "setid.mat": "setid.mat",
        "102flowers.tgz": "jpg",
    },
    max_bytes=1_000_000_000,  # the pictures have 350 MB
    advice="set data.dir or DISCERN_DATA_DIR to a folder that has flowers-102 with jpg, "
    "imagelabels.mat and setid.mat, or connect to the network",
)

PETS = Source(
    title="Oxford-IIIT Pet",
    folder="oxford-iiit-pet",
    sign=Path("annotations", "trainval.txt"),
    site=Site(
        url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
        md5={
            "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
            "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
        },
    ),
    made={"annotations.tar.gz": "annotations", "images.tar.gz": "images"},
    max_bytes=2_000_000_000,  # the pictures have 800 MB
    advice="set data.dir or DISCERN_DATA_DIR to a folder that has oxford-iiit-pet with images and "
    "annotations, or connect to the network",
)

CATDOG_URL = "https://s3.amazonaws.com/content.udacity-data.com/nd089/Cat_Dog_data.zip"
CATDOG_COURSE = "Cat_Dog_data"
CATDOG_MICROSOFT = "PetImages"
CATDOG_TITLE = "Cats and dogs"
CATDOG_CLASSES = {"cat": "cat", "cats": "cat", "dog": "dog", "dogs": "dog"}
"""A folder's name in lower case -> the class."""
CATDOG_NUMBERED = re.compile(r"(cat|dog)\.\d+\.jpe?g", re.IGNORECASE)
CATDOG_LAYOUTS = (
    f"{CATDOG_COURSE}/train/cat and dog, {CATDOG_MICROSOFT}/Cat and Dog, or train/cat.0.jpg and so "
    "on"
)
CATDOG_ADVICE = (
    f"set data.dir or DISCERN_DATA_DIR to a folder that has {CATDOG_LAYOUTS}, or connect to the "
    "network"
)


@dataclass(frozen=True)
class Download:
    """A file that is not there.

    Attributes:
        urls: addresses, any of which provides it.
        refusal: address -> reason, of all addresses -> the error for a file that cannot be had.
    """

    urls: Sequence[str]
    refusal: Callable[[Mapping[str, str]], DiscernError]


def refusals(downloads: Sequence[Download]) -> tuple[list[DiscernError], list[DiscernError]]:
    """The errors for files that cannot be had, and for those whose servers have not answered.

    A server that refuses the question may still provide the file.
    """
    certain: list[DiscernError] = []
    silent: list[DiscernError] = []
    if not downloads:
        return certain, silent
    from discern.data.published.fetch import NO_ANSWER, REFUSED, unavailable  # start-up time

    reasons = unavailable([url for each in downloads for url in each.urls], PATIENCE)
    for each in downloads:
        found = {url: reasons[url] for url in each.urls if url in reasons}
        if len(found) < len(each.urls) or any(why.startswith(REFUSED) for why in found.values()):
            continue
        (silent if NO_ANSWER in found.values() else certain).append(each.refusal(found))
    return certain, silent


def _archive(url: str, missing: str, advice: str) -> Download:
    def refusal(reasons: Mapping[str, str]) -> DiscernError:
        return not_downloaded(missing, f"{url} cannot be downloaded: {reasons[url]}", advice)

    return Download((url,), refusal)


# Each data set, from its settings


def _idx(publication: Publication, has_sample: bool, settings: Settings) -> list[Download]:
    folder, source = _folder(settings), settings.get("source", "auto")
    if source == "sample" or publication.find(folder) or (source == "auto" and has_sample):
        return []
    name = f"{next(iter(DIMENSIONS))}.gz"

    def refusal(reasons: Mapping[str, str]) -> DiscernError:
        said = (f"{url.removesuffix(name)}: {reason}" for url, reason in reasons.items())
        return publication.not_to_be_had(folder, "; ".join(said))

    return [Download([f"{mirror}{name}" for mirror in publication.mirrors], refusal)]


def _cifar(title: str, name: str, settings: Settings) -> list[Download]:
    folder, facts = _folder(settings), cifar_facts(name)
    if not facts or _is_there(folder, *facts.values()):
        return []
    # Whoever names the folder of the files themselves has them in it.
    if _is_there(folder, "test_batch", "test"):
        return []
    advice = cifar_advice(facts["base_folder"], facts["filename"])
    return [_archive(facts["url"], f"{title} is not in {folder}", advice)]


def cifar_advice(folder: str, archive: str) -> str:
    """The end of a sentence on what a user without CIFAR's files can do."""
    return (
        f"set data.dir or DISCERN_DATA_DIR to a folder that has {folder} or {archive}, or connect "
        "to the network"
    )


def _of_site(source: Source, settings: Settings) -> list[Download]:
    folder = _folder(settings)
    root = source.root(folder)
    return [
        _archive(f"{source.site.url}{name}", source.is_not_in(folder), source.advice)
        for name in source.lacking(root)
        if not _is_there(root, name)
    ]


def _catdog(settings: Settings) -> list[Download]:
    folder = _folder(settings)
    if settings.get("csv") or settings.get("parts"):
        return []
    if folder.exists():
        check_folder(folder)
        archive = f"{CATDOG_COURSE}.zip"
        known = {
            *map(str.lower, (CATDOG_COURSE, CATDOG_MICROSOFT, archive)),
            "train",
            *CATDOG_CLASSES,
        }
        names = visible_names(folder)
        if any(name.lower() in known or CATDOG_NUMBERED.fullmatch(name) for name in names):
            return []
    url = str(settings.get("url", CATDOG_URL))
    return [_archive(url, f"{CATDOG_TITLE} are not in {folder}", CATDOG_ADVICE)]


def _pictures(settings: Settings) -> list[Download]:
    check_folder(_folder(settings))
    return []


def _folder(settings: Settings) -> Path:
    return expanded(str(settings.get("dir", "data")))


def _is_there(folder: Path, *names: str) -> bool:
    return any((folder / name).exists() for name in names)


NEEDS: dict[str, Callable[[Settings], list[Download]]] = {
    "discern.data.image_folder.ImageFolder": _pictures,
    "discern.data.published.catdog.CatDog": _catdog,
    "discern.data.published.cifar.CIFAR10": partial(_cifar, "CIFAR-10", "CIFAR10"),
    "discern.data.published.cifar.CIFAR100": partial(_cifar, "CIFAR-100", "CIFAR100"),
    "discern.data.published.flowers.Flowers102": partial(_of_site, FLOWERS),
    "discern.data.published.imagenet.ImageNetFolder": _pictures,
    "discern.data.published.mnist.FashionMNIST": partial(_idx, FASHION_MNIST, False),
    "discern.data.published.mnist.MNIST": partial(_idx, MNIST, True),
    "discern.data.published.pets.OxfordPets": partial(_of_site, PETS),
}
"""Class of a data set -> what of it would have to be downloaded. Each raises a DiscernError for a
folder that it could not use."""
