"""Pseudo-labels: texts whose label a teacher is sure of are learned from as if they were labelled (Lee, 2013).

How far it can be trusted where it is so sure is seen on dev rows, from which it has not learned.

>>> splits, told = with_pseudo_labels(splits, labels, config)  # doctest: +SKIP
>>> told  # doctest: +SKIP
'6120 of 8000 texts have a label that scores 0.9 or more; of 231 dev rows like them 95.2% are right'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from burnish_serve.errors import InputError
from burnish_serve.tasks import Logits
from burnish_serve.tasks.scores import softmax
from burnish_train import checkpoint, processes
from burnish_train.config import TrainConfig
from burnish_train.data import Example, Splits
from burnish_train.methods.teacher import check


def with_pseudo_labels(
    splits: Splits, labels: Sequence[str], config: TrainConfig, *, device: str = "cpu"
) -> tuple[Splits, str]:
    """Return the splits with texts that the teacher is sure of among the labelled rows, and what is to be told of them.

    Texts that it is not sure of are left out. A warning is added where fewer dev rows are right than their scores say.

    Args:
        splits: with rows without labels.
        labels: names of the logits.
        config: which teachers, and how sure they must be.
        device: where they are asked.

    Raises:
        InputError: the teacher has other labels than the rows, or is sure of no text.
    """
    folders = [Path(folder) for folder in config.teacher]
    for folder in folders:
        check(folder, config.task, labels)
    least = config.pseudo_label_threshold
    found = scores_of(folders, [*splits.unlabelled, *splits.dev], device)
    best, sure = found.argmax(-1), found.max(-1) >= least
    texts, known = len(splits.unlabelled), [labels[number] for number in best]
    rows = [
        dataclasses.replace(example, right=label, label=label)
        for example, label, is_sure in zip(splits.unlabelled, known, sure, strict=False)
        if is_sure
    ]
    if not rows:
        raise InputError(
            f"{config.unlabelled}: no text has a label that scores {least:g}; the highest score is "
            f"{found[:texts].max():.3f}, so give a lower --pseudo-label-threshold"
        )
    right = np.array([label == row.right for label, row in zip(known[texts:], splits.dev, strict=True)])[sure[texts:]]
    share = float(right.mean()) if len(right) else None
    about = {**splits.sources["unlabelled"], "pseudo_labelled": len(rows), "dev_sure": len(right), "dev_right": share}
    told = f"{len(rows)} of {texts} texts have a label that scores {least:g} or more; "
    told += (
        f"of {len(right)} dev rows like them {share:.1%} are right" if share is not None else "no dev row is like them"
    )
    doubt = () if share is not None and share >= least else (f"{config.unlabelled}: {told}",)
    return (
        dataclasses.replace(
            splits,
            train=[*splits.train, *rows],
            unlabelled=(),
            sources={**splits.sources, "unlabelled": about},
            warnings=(*splits.warnings, *doubt),
        ),
        told,
    )


def scores_of(folders: Sequence[Path], examples: Sequence[Example], device: str) -> Logits:
    """Return the scores ``[rows, labels]`` of the mean of all teachers' calibrated logits."""
    logits = []
    for folder in folders:
        teacher = checkpoint.load(folder, device=device, threads=processes.num_threads())
        outputs = np.asarray(teacher.outputs(teacher.examine([example.asked for example in examples])))
        logits.append(outputs / teacher.reading.decoding.temperature)
    return softmax(np.mean(logits, axis=0))
