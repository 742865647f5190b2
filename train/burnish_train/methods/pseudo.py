"""Pseudo-labels: texts are learned from as if they had the label that a teacher, or their neighbours, give them.

A teacher labels those texts that it is sure of (Lee, 2013). Or labels spread from rows that have one over the graph of
the nearest texts (Zhou et al., 2003, "Learning with local and global consistency", by scikit-learn): few rows are
enough where texts of one label lie together. How far either can be trusted is seen on dev rows, whose labels are not
looked at.

>>> splits, told = with_pseudo_labels(splits, labels, config)  # doctest: +SKIP
>>> told  # doctest: +SKIP
'6120 of 8000 texts have a label that scores 0.9 or more; of 231 dev rows like them 95.2% are right'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve.errors import InputError
from burnish_serve.tasks import Logits
from burnish_serve.tasks.scores import softmax
from burnish_train import checkpoint, processes
from burnish_train.config import TrainConfig
from burnish_train.data import Splits
from burnish_train.insight.vectors import Vectors
from burnish_train.methods.teacher import check

# Chosen on 385 dev rows of banking77: any near them do alike.
NEIGHBOURS, WIDTH, SPREAD = 10, 0.05, 0.95
"""How many texts are near, how fast nearness falls with one less the cosine, and the share that neighbours decide."""
ROUNDS = 1000
"""At the most: it ends when nothing changes any more."""
UNKNOWN = -1
"""What scikit-learn calls a row without a label."""


def with_pseudo_labels(
    splits: Splits, labels: Sequence[str], config: TrainConfig, *, device: str = "cpu"
) -> tuple[Splits, str]:
    """Return the splits with texts that the teacher is sure of among the labelled rows, and what is to be told of them.

    Texts that are not sure enough are left out. A warning is added where fewer dev rows are right than the
    threshold says.

    Args:
        splits: with rows without labels.
        labels: names of the logits.
        config: which teachers, and how sure they must be.
        device: where they are asked.

    Raises:
        InputError: the teacher has other labels than the rows, or is sure of no text.
    """
    for folder in config.teacher:
        check(Path(folder), config.task, labels)
    least = config.pseudo_label_threshold
    scores = spread if config.label_spreading else taught
    found = scores(splits, labels, config, device)
    best, sure = found.argmax(-1), (found.max(-1) >= least) & (found.max(-1) > 0)
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


def taught(splits: Splits, labels: Sequence[str], config: TrainConfig, device: str) -> Logits:
    """Return what all teachers together score unlabelled rows and dev rows, ``[rows, labels]``, calibrated."""
    asked = [example.asked for example in (*splits.unlabelled, *splits.dev)]
    logits = []
    for folder in config.teacher:
        teacher = checkpoint.load(folder, device=device, threads=processes.num_threads())
        outputs = np.asarray(teacher.outputs(teacher.examine(asked)))
        logits.append(outputs / teacher.reading.decoding.temperature)
    return softmax(np.mean(logits, axis=0))


def spread(splits: Splits, labels: Sequence[str], config: TrainConfig, device: str) -> Logits:
    """Return the shares of the labels that reach unlabelled rows and dev rows, ``[rows, labels]``; 0 where none does.

    Texts are as near as their vectors by the encoder that is trained, and by each teacher's.
    """
    from sklearn.semi_supervised import LabelSpreading

    rows = [example.texts for example in (*splits.train, *splits.unlabelled, *splits.dev)]
    models = [config.model, *config.teacher]
    each = [Vectors(model, max_length=config.max_length, device=device)(rows) for model in models]
    known = [labels.index(example.right) for example in splits.train]
    spreading = LabelSpreading(kernel=_graph, alpha=SPREAD, max_iter=ROUNDS)
    spreading.fit(np.hstack(each) / np.sqrt(len(each)), [*known, *[UNKNOWN] * (len(rows) - len(known))])
    shares = np.zeros((len(rows) - len(known), len(labels)), dtype=np.float32)
    shares[:, spreading.classes_] = spreading.label_distributions_[len(known) :]
    return shares


def _graph(vectors: Any, _: Any) -> Any:
    """Return the weights between texts, sparse ``[texts, texts]``: each and its nearest, whichever of both is near."""
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(vectors, min(NEIGHBOURS, len(vectors) - 1), mode="distance")
    graph.data = np.exp(-(graph.data**2) / 2 / WIDTH)
    return graph.maximum(graph.T)
