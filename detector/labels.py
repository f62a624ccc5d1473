"""What a model's class numbers mean."""

from __future__ import annotations

from pathlib import Path

from config import ConfigError

__all__ = ["COCO_LABELS", "coco_labels", "read_labels"]

COCO_LABELS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO detection models, in the order in which such models number them.

Source: https://cocodataset.org, instances of 2017.
"""

_LABEL_MAX = 256
_UNUSED = "unused"
_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""Numbers from 1 to 90 that COCO gave to things of which it then had no pictures."""


def coco_labels(classes: int) -> tuple[str, ...]:
    """COCO's labels as networks with so many classes number them.

    Args:
        classes: 90 numbers as in the data set itself, with its gaps; 91 the same from 0, which is nothing; any other
            count the 80 that there are.
    """
    if classes not in (90, 91):
        return COCO_LABELS
    names = iter(COCO_LABELS)
    numbered = tuple(_UNUSED if number in _GAPS else next(names) for number in range(1, 91))
    return numbered if classes == 90 else (_UNUSED, *numbered)


def read_labels(file: Path) -> tuple[str, ...]:
    """The labels in a file with one a line.

    Raises:
        ConfigError: the file cannot be read or is not such a list.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} cannot be read ({error}): give a text file with one label a line", field="detector.labels"
        ) from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels or max(map(len, labels)) > _LABEL_MAX:
        raise ConfigError(f"{file} is not a list of labels, one a line", field="detector.labels")
    return labels
