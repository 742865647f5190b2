"""``burnish bench --compare``: peers in their own processes, in turns with the bundle, and what they are told."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from burnish_bench.cli import bench as command
from burnish_bench.peers import NAMES, started
from burnish_serve import load
from burnish_serve.errors import BurnishError, InputError

TEXTS = ["set the alarm now", "weather", "some music for the rain in the morning now", "now", "music"]


def settings(bundle, checkpoint):
    return {"bundle": str(bundle), "checkpoint": str(checkpoint), "threads": 1, "max_length": 16}


def test_a_peer_answers_alone_and_says_why_it_fails(bundle, tiny_checkpoint):
    told = settings(bundle, tiny_checkpoint)
    ours = [answer["label"] for answer in load(bundle, variant="fp32", device="cpu")(TEXTS)]
    with started(["transformers"], Path(sys.executable), TEXTS, TEXTS, **told) as peers:
        peer = peers["transformers"]
        assert [peer.alone(number).value for number in (4, 0)] == [ours[4], ours[0]]
        started_at = time.perf_counter()
        assert 0 < peer().seconds < time.perf_counter() - started_at
        assert set(peer.versions) == {"transformers", "torch"}
        with pytest.raises(BurnishError, match="the peer transformers failed: IndexError"):
            peer.alone(9)
    with pytest.raises(BurnishError, match="the peer transformers failed: it ended without a word"):
        peer()
    with (
        pytest.raises(BurnishError, match="the peer openvino int8 failed: ModuleNotFoundError: No module named 'nncf'"),
        started(["openvino int8"], Path(sys.executable), TEXTS, TEXTS, **told),
    ):
        pass


def test_what_is_no_peer_is_said(bundle, tiny_checkpoint, tmp_path):
    with (
        pytest.raises(InputError, match="no peer is named 'triton'; there are: transformers, "),
        started(["triton"], Path(sys.executable), TEXTS, TEXTS, **settings(bundle, tiny_checkpoint)),
    ):
        pass
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    for arguments, said in (
        (("--compare",), "--compare needs --checkpoint"),
        (
            ("--compare", "--checkpoint", tiny_checkpoint, "--peers-python", "none/python"),
            "no such Python: none/python",
        ),
    ):
        result = CliRunner().invoke(command, [str(part) for part in (bundle, "--data", rows, *arguments)])
        assert result.exit_code == 1
        assert said in result.stderr


def test_peers_stand_in_the_report(make_bundle, mean_checkpoint, tmp_path):
    bundle = make_bundle(mean_checkpoint)  # whose head is none of transformers'
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    run = ("--data", rows, "--variant", "fp32", "--no-sweep", "--rounds", 6, "--seconds", 0.1, "--threads", 1)
    peers = ("--compare", "--checkpoint", mean_checkpoint, "--peers-python", sys.executable, "--peers", "transformers")
    result = CliRunner().invoke(command, [str(part) for part in (bundle, *run, *peers)])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout.splitlines()[-1])
    found = data["peers"]["transformers"]
    assert data["leader"] == "fp32"
    assert found["agreement"] == 1.0
    assert found["sweep"] == []
    ratio = data["variants"]["fp32"]["throughput"]["texts_per_second"] / found["throughput"]["texts_per_second"]
    assert found["behind"]["median"] == pytest.approx(ratio, rel=0.7)
    assert found["behind"]["median"] > 1
    assert data["variants"]["fp32"]["behind"]["median"] == 1
    assert "peers, on the same rows with the same threads\npeer" in result.stdout


def test_every_peer_is_named_in_the_docs():
    page = (Path(__file__).parents[1] / "docs" / "bench.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in NAMES)
