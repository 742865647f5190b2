"""``burnish tune``: which settings are taken, where they are kept, who reads them, and what is as good as none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from burnish_bench import tune as module
from burnish_bench.cli import tune as command
from burnish_bench.tune import fastest
from burnish_serve import load, machine, open_bundle, opening, tuning
from burnish_serve.opening import open_runner
from burnish_serve.runner import MAX_BATCH_TOKENS
from burnish_serve.session import CPU, OPENVINO
from burnish_serve.timing import Estimate
from burnish_serve.tuning import Tuning

TINY = Path(__file__).parent / "tiny_bundle"
TEXTS = ["great film", "dull", "great " * 9, "a dull film of great length"]
OTHER = Tuning(max_batch_tokens=8, callers=False, spinning=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep settings in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(threads: int = 2, variant: str = "int8") -> Path:
    path = tuning.place(open_bundle(TINY), variant, CPU, threads)
    assert path
    return path


def spins(runner: Any) -> bool:
    try:
        options = runner.session.get_session_options()
        return bool(options.get_session_config_entry("session.intra_op.allow_spinning") != "0")
    except RuntimeError:  # it was never set
        return True


def test_settings_that_were_kept_are_read_and_change_no_answer() -> None:
    plain = load(TINY, device="cpu", variant="int8", threads=2)
    assert (plain.max_batch_tokens, plain.callers is None, spins(plain)) == (MAX_BATCH_TOKENS, False, True)
    tuning.write(kept(), OTHER)
    tuned = load(TINY, device="cpu", variant="int8", threads=2)
    assert (tuned.max_batch_tokens, tuned.callers is None, spins(tuned)) == (8, True, False)
    assert tuned(TEXTS) == plain(TEXTS)
    assert load(TINY, device="cpu", variant="int8", threads=2, for_files=True)(TEXTS) == plain(TEXTS)


def test_what_is_asked_for_goes_before_what_was_kept() -> None:
    tuning.write(kept(), OTHER)
    assert load(TINY, device="cpu", variant="int8", threads=2, max_batch_tokens=99).max_batch_tokens == 99


@pytest.mark.parametrize("other", [{"threads": 1}, {"variant": "fp32"}])
def test_settings_are_for_one_variant_and_number_of_threads(other: dict[str, Any]) -> None:
    tuning.write(kept(), OTHER)
    model = load(TINY, device="cpu", **{"variant": "int8", "threads": 2, **other})
    assert model.max_batch_tokens == MAX_BATCH_TOKENS


def test_settings_are_for_one_machine_and_bundle(
    monkeypatch: pytest.MonkeyPatch, bundle_copy: Path, edit_manifest: Callable[..., None]
) -> None:
    places = [kept()]
    for name, value in (
        ("cpu_name", "another"),
        ("cpu_features", ("none",)),
        ("onnxruntime_wheels", {"onnxruntime": "1"}),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(machine, name, lambda value=value: value)
            places.append(kept())
    edit_manifest(bundle_copy, max_length=7)
    places.append(tuning.place(open_bundle(bundle_copy), "int8", CPU, 2) or places[0])
    assert len(set(places)) == 5
    assert kept() == places[0]


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"{",
        b"[]",
        b'"\xff"',
        b'{"tuning": []}',
        b'{"tuning": {"max_batch_tokens": 0}}',
        b'{"tuning": {"max_batch_tokens": "8"}}',
        b'{"tuning": {"max_batch_tokens": true}}',
        b'{"tuning": {"callers": 1}}',
        b'{"tuning": {"spinning": null}}',
        b'{"tuning": {"cuda_graphs": 1}}',
        b'{"tuning": {"openvino": 1}}',
        b'{"tuning": {"threads": 2}}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(written: bytes) -> None:
    kept().parent.mkdir(parents=True)
    kept().write_bytes(written)
    assert tuning.read(kept()) is None
    assert load(TINY, device="cpu", variant="int8", threads=2).max_batch_tokens == MAX_BATCH_TOKENS


def test_what_is_written_is_read_and_nothing_else_stays(cache: Path) -> None:
    for each in (OTHER, Tuning()):
        tuning.write(kept(), each)
        assert tuning.read(kept()) == each
    assert [path for path in cache.rglob("*") if path.is_file()] == [kept()]


def test_a_user_without_a_home_has_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert load(TINY, device="cpu", variant="int8").max_batch_tokens == MAX_BATCH_TOKENS
    result = CliRunner().invoke(command, [str(TINY), "--rounds", "1", "--seconds", "0"])
    assert result.exit_code == 1
    assert "XDG_CACHE_HOME names one" in result.stderr


def estimate(median: float, low: float | None) -> Estimate:
    return Estimate(median=median, low=low, high=None if low is None else 2 * median - low)


@pytest.mark.parametrize(
    ("others", "taken"),
    [
        ((estimate(1.5, 1.2), estimate(1.3, 1.29)), 0),
        ((estimate(1.5, 0.99), estimate(1.3, 1.29)), 1),  # the first may be noise
        ((estimate(1.5, None), estimate(1.01, 1.005)), None),  # too few rounds; too little gained
        ((estimate(0.9, 0.8), estimate(1.0, 0.9)), None),
    ],
)
def test_a_setting_is_taken_where_it_is_faster_by_more_than_noise(
    others: tuple[Estimate, Estimate], taken: int | None
) -> None:
    each = [Tuning(max_batch_tokens=1), Tuning(callers=False)]
    found = {Tuning(): estimate(1.0, 1.0), **dict(zip(each, others, strict=True))}
    assert fastest(found) == (Tuning() if taken is None else each[taken])


def planted(seconds: Callable[[Tuning], float]) -> Callable[..., dict[Tuning, Any]]:
    """Return what stands for `interleave` with the seconds of each setting; each call is made once."""

    def interleave(calls: Mapping[Tuning, Callable[[], object]], *, rounds: int, tick: Callable[[], object], **_: Any):
        for each, call in calls.items():
            call()
            if isinstance(call, partial):  # of whole calls
                wanted = each.max_batch_tokens or MAX_BATCH_TOKENS
                assert (call.func.max_batch_tokens, call.func.callers is not None) == (wanted, each.callers)
        return {each: np.full((rounds, 1), seconds(each)) for each in calls}

    return interleave


@pytest.mark.parametrize(
    ("fast", "expected", "said"),
    [
        (
            Tuning(max_batch_tokens=1024),
            Tuning(max_batch_tokens=1024),
            "batches of 1,024 tokens, side by side, threads that spin",
        ),
        (Tuning(max_batch_tokens=256, callers=False), Tuning(max_batch_tokens=256, callers=False), "one after another"),
        (Tuning(spinning=False), Tuning(spinning=False), "threads that sleep while they wait"),
        (None, Tuning(), "batches of 512 tokens, side by side, threads that spin"),
    ],
)
def test_the_fastest_settings_are_kept(
    fast: Tuning | None, expected: Tuning, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "interleave", planted(lambda each: 0.5 if each == fast else 1.0))
    arguments = [str(TINY), "--threads", "2", "--rounds", "6", "--variant", "int8"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert said in result.stdout
    assert tuning.read(kept()) == expected
    data = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).stdout)
    assert data["tuning"] == dataclasses.asdict(expected)
    assert data["file"] == str(kept())
    assert [(one["max_batch_tokens"], one["callers"]) for one in data["whole_calls"]] == [
        (None, True),
        (256, True),
        (1024, True),
        (2048, True),
        (256, False),
        (None, False),
        (1024, False),
        (2048, False),
    ]
    assert [one["spinning"] for one in data["single_rows"]] == [True, False]


class Stranger:
    """OpenVINO's runner: it computes as the CPU does, but for what is planted."""

    def __init__(self, off: float = 0.0, by_batch: float = 0.0) -> None:
        self.inner = open_runner(open_bundle(TINY), provider="cpu", variant="int8", tuning=Tuning())
        self.off, self.by_batch = off, by_batch

    def run(self, outputs: Any, feed: Mapping[str, Any]) -> list[Any]:
        found = self.inner.session.run(outputs, feed)
        return [value + self.off + self.by_batch * (len(value) > 1) for value in found]


def with_openvino(monkeypatch: pytest.MonkeyPatch, stranger: Stranger, provider: str = OPENVINO) -> None:
    """Make `tune` find OpenVINO, with this session."""

    def opened(bundle: Any, *, tuning: Tuning, **given: Any) -> Any:
        runner = open_runner(bundle, tuning=dataclasses.replace(tuning, openvino=False), **given)
        if tuning.openvino:
            runner.session, runner.callers, runner.provider = stranger, None, provider
        return runner

    known = type("Runtime", (), {"get_available_providers": staticmethod(lambda: [OPENVINO, CPU])})
    monkeypatch.setattr(module, "import_onnxruntime", lambda: known)
    monkeypatch.setattr(module, "open_runner", opened)
    monkeypatch.setattr(
        module,
        "interleave",
        lambda calls, *, rounds, **_: {
            each: np.full((rounds, 1), 0.5 if each == Tuning(openvino=True) else 1) for each in calls
        },
    )


@pytest.mark.parametrize(
    ("stranger", "provider", "said"),
    [
        (Stranger(), OPENVINO, "kept for int8 with 2 threads: batches of 512 tokens, by OpenVINO, threads that"),
        (Stranger(off=0.1), OPENVINO, "OpenVINO is not taken: golden rows are off by 0.1 where 0.001 is allowed"),
        (Stranger(by_batch=1e-6), OPENVINO, "OpenVINO is not taken: answers depend on the batch, and the variant"),
        (Stranger(), CPU, "OpenVINO is not taken: it does not start"),
    ],
)
def test_openvino_is_taken_where_it_is_faster_and_keeps_what_the_bundle_promises(
    stranger: Stranger, provider: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_openvino(monkeypatch, stranger, provider)
    result = CliRunner().invoke(command, [str(TINY), "--threads", "2", "--rounds", "6", "--variant", "int8"])
    assert result.exit_code == 0, result.output
    assert said in result.stdout
    assert tuning.read(kept()) == Tuning(openvino="by OpenVINO" in said)


def test_who_asks_for_a_provider_is_told_nothing_of_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    with_openvino(monkeypatch, Stranger())
    flags = ["--provider", "cpu", "--threads", "2", "--rounds", "6", "--variant", "int8"]
    result = CliRunner().invoke(command, [str(TINY), *flags])
    assert result.exit_code == 0, result.output
    assert "OpenVINO" not in result.stdout


@pytest.mark.parametrize(
    ("given", "provider"), [({}, OPENVINO), ({"device": "cpu"}, OPENVINO), ({"provider": "cpu"}, CPU)]
)
def test_openvino_that_was_kept_is_opened_where_no_provider_is_asked_for(
    given: dict[str, Any], provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning.write(kept(), Tuning(openvino=True))
    monkeypatch.setattr(opening, "provider_for", lambda *_: CPU)
    monkeypatch.setattr(opening, "tried_session", lambda *_, **__: (Stranger(), {OPENVINO: 1}))
    runner = load(TINY, variant="int8", threads=2, **given)
    assert runner.provider == provider
    assert (runner.callers is None) is (provider == OPENVINO)


@pytest.mark.skipif(OPENVINO in onnxruntime.get_available_providers(), reason="onnxruntime-openvino is installed")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_openvino_that_was_kept_and_fails_leaves_the_cpu(device: str) -> None:
    tuning.write(kept(), Tuning(openvino=True))
    with pytest.warns(RuntimeWarning, match="taking the CPU: cannot run"):
        model = load(TINY, device=device, variant="int8", threads=2)
    assert model.provider == CPU
    assert model(TEXTS) == load(TINY, provider="cpu", variant="int8")(TEXTS)


def test_one_thread_has_nobody_to_wait_for() -> None:
    result = CliRunner().invoke(command, [str(TINY), "--threads", "1", "--rounds", "1", "--seconds", "0", "--json"])
    data = json.loads(result.stdout)
    assert len(data["single_rows"]) == 1
    assert {one["callers"] for one in data["whole_calls"]} == {True}


def test_settings_that_cannot_be_kept_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = CliRunner().invoke(command, [str(TINY), "--rounds", "1", "--seconds", "0"])
    assert result.exit_code == 1
    assert result.stderr.startswith("burnish: the settings cannot be kept in ")
    assert "Traceback" not in result.output
