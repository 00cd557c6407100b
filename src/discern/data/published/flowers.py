"""Oxford 102 Flowers, in the form in which it is published."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, ClassVar

from discern.data.folders import Labelled, Listing
from discern.data.image_folder import ImageFolder
from discern.data.published.fetch import advising, fetch
from discern.data.published.publication import Site, root_of
from discern.data.published.unpack import extract
from discern.errors import DiscernError

FOLDER = "flowers-102"

_TITLE = "Oxford 102 Flowers"
_ARCHIVE = "102flowers.tgz"
_LABELS = "imagelabels.mat"
_SPLIT = "setid.mat"
_IMAGES = "jpg"
# The pictures have 350 MB.
_MAX_BYTES = 1_000_000_000
# Part -> name of its list in setid.mat.
_PARTS = {"train": "trnid", "val": "valid", "test": "tstid"}
_ADVICE = (
    f"set data.dir or DISCERN_DATA_DIR to a folder that has {FOLDER} with {_IMAGES}, {_LABELS} and "
    f"{_SPLIT}, or connect to the network"
)


PUBLICATION = Site(
    url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    md5={
        _ARCHIVE: "52808999861908f626f3c1f4e79d11fa",
        _LABELS: "e0620be6f572b9609742df49c70aed4d",
        _SPLIT: "a5357ecc9cb78c4bef273ce3793fc85c",
    },
)


class Flowers102(ImageFolder):
    """Photographs of 102 kinds of flowers: 1,020 for training, 1,020 validation, 6,149 test.

    The files are looked for in the folder ``flowers-102`` of ``dir``, which is torchvision's, or
    directly in ``dir``; those that are missing are downloaded. Reading the labels needs SciPy.

    Args:
        **options: see ``ImageFolder``; ``csv``, ``parts`` and ``test_size`` have no effect, nor has
            ``val_size``, as the data set comes in three parts.
    """

    published: ClassVar[Site] = PUBLICATION

    def prepare_data(self) -> None:
        """Download and unpack what is missing.

        Raises:
            DiscernError: it cannot be had, or SciPy is not installed.
        """
        root = root_of(self.dir, FOLDER, _LABELS)
        for name in (_LABELS, _SPLIT):
            if not (root / name).exists():
                self._fetch(name, root)
        if not (root / _IMAGES).exists():
            self._fetch(_ARCHIVE, root)
            extract(root / _ARCHIVE, root / _IMAGES, _MAX_BYTES, folder=_IMAGES)

    def _fetch(self, name: str, root: Path) -> None:
        path, published = root / name, self.published
        with advising(path, f"{_TITLE} is not in {self.dir}", _ADVICE):
            fetch(published.url + name, path, md5=published.md5[name])

    def _title(self) -> str:
        return _TITLE

    def _listing(self) -> Listing:
        root = root_of(self.dir, FOLDER, _LABELS)
        split = self._read(root / _SPLIT)
        labels = self._read(root / _LABELS)["labels"].tolist()
        return Listing(
            {
                part: [
                    Labelled(root / _IMAGES / f"image_{number:05}.jpg", CLASS_NAMES[label - 1])
                    for label, number in sorted((labels[n - 1], n) for n in split[key].tolist())
                ]
                for part, key in _PARTS.items()
            }
        )

    def _in_label_order(self, names: set[str]) -> list[str]:
        return list(CLASS_NAMES)

    def _read(self, path: Path) -> Any:
        """The arrays in one of the publisher's files, by name; numbers begin with 1.

        No other file is given to SciPy.
        """
        from scipy.io import loadmat

        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DiscernError(f"{_TITLE} is not in {self.dir}: {_ADVICE}.") from error
        except OSError as error:
            raise DiscernError(f"{path} cannot be read: {error.strerror or error}.") from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        expected = self.published.md5[path.name]
        if found != expected:
            raise DiscernError(
                f"{path} is not the file that was published: its MD5 starts with {found[:12]} "
                f"instead of {expected[:12]}; delete it to have it downloaded again."
            )
        return loadmat(io.BytesIO(content), squeeze_me=True)


CLASS_NAMES = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea",
    "english marigold", "tiger lily", "moon orchid", "bird of paradise", "monkshood",
    "globe thistle", "snapdragon", "colt's foot", "king protea", "spear thistle", "yellow iris",
    "globe-flower", "purple coneflower", "peruvian lily", "balloon flower", "giant white arum lily",
    "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth", "corn poppy",
    "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya",
    "cape flower", "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil",
    "sword lily", "poinsettia", "bolero deep blue", "wallflower", "marigold", "buttercup",
    "oxeye daisy", "common dandelion", "petunia", "wild pansy", "primula", "sunflower",
    "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia",
    "pink-yellow dahlia?", "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush",
    "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower",
    "tree poppy", "gazania", "azalea", "water lily", "rose", "thorn apple", "morning glory",
    "passion flower", "lotus", "toad lily", "anthurium", "frangipani", "clematis", "hibiscus",
    "columbine", "desert-rose", "tree mallow", "magnolia", "cyclamen", "watercress", "canna lily",
    "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea", "camellia", "mallow",
    "mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
)  # fmt: skip
"""The published English names, in the order of the labels."""
