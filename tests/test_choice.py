"""Which variant a processor takes, and the one line that says so where it is not the one that was meant."""

from __future__ import annotations

import dataclasses

import pytest

from burnish_serve import load, machine
from burnish_serve.bundle import open_bundle
from burnish_serve.choice import choose

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
VNNI = ("avx512_vnni", "avx_vnni")


@pytest.fixture
def particular(bundle_copy, edit_manifest):
    """Return a bundle whose int8 needs VNNI, with a variant of 7 bits (here the same graph) for other processors."""
    variants = dict(open_bundle(bundle_copy).manifest.variants)
    variants["int8-7bit"] = variants["int8"]
    variants["int8"] = dataclasses.replace(variants["int8"], right_with=VNNI)
    edit_manifest(bundle_copy, variants=variants, defaults={CPU: ("int8", "int8-7bit", "fp32"), CUDA: ("fp32",)})
    return bundle_copy


@pytest.mark.parametrize(
    ("provider", "features", "name"),
    [
        (CPU, ("avx2", "avx512_vnni"), "int8"),
        (CPU, ("avx_vnni",), "int8"),
        (CPU, ("avx2", "avx512f"), "int8-7bit"),
        (CPU, (), "int8-7bit"),
        (CUDA, ("avx2",), "fp32"),
        ("OpenVINOExecutionProvider", ("avx512_vnni",), "int8"),
        ("TensorrtExecutionProvider", ("avx512_vnni",), "fp32"),
    ],
)
def test_the_first_variant_that_the_processor_answers_rightly_with_is_taken(particular, provider, features, name):
    chosen, remark = choose(open_bundle(particular).manifest, provider, features)
    assert chosen == name
    wanted = "taking the variant int8-7bit instead of int8: it needs a processor with avx512_vnni or avx_vnni"
    assert remark == (wanted if name == "int8-7bit" else None)


def test_a_variant_that_is_demanded_is_taken_and_remarked_on(particular):
    manifest = open_bundle(particular).manifest
    assert choose(manifest, CPU, ("avx2",), "fp32") == ("fp32", None)
    name, remark = choose(manifest, CPU, ("avx2",), "int8")
    assert name == "int8"
    assert remark == "int8 may answer wrongly here: it needs a processor with avx512_vnni or avx_vnni"


def test_where_nothing_fits_the_first_is_taken_and_remarked_on(particular, edit_manifest):
    needs = dataclasses.replace(open_bundle(particular).manifest.variants["int8"], right_with=("amx_int8",))
    edit_manifest(particular, variants={"int8": needs}, defaults={CPU: ("int8",)})
    name, remark = choose(open_bundle(particular).manifest, CPU, ("avx2",))
    assert (name, remark) == ("int8", "int8 may answer wrongly here: it needs a processor with amx_int8")


def test_a_runner_says_in_one_line_that_it_takes_another(particular, monkeypatch):
    monkeypatch.setattr(machine, "cpu_features", lambda: ("avx2",))
    with pytest.warns(RuntimeWarning, match="taking the variant int8-7bit instead of int8") as told:
        model = load(particular, device="cpu")
    assert model.variant == "int8-7bit"
    assert len(told) == 1
    monkeypatch.setattr(machine, "cpu_features", lambda: ("avx2", "avx512_vnni"))
    assert load(particular, device="cpu").variant == "int8"


def test_verify_replays_only_what_would_be_taken(particular, monkeypatch):
    from click.testing import CliRunner

    from burnish_serve.cli.verify import command

    for features, unfit in (((), True), (VNNI, False)):
        monkeypatch.setattr(machine, "cpu_features", lambda features=features: features)
        result = CliRunner().invoke(command, [str(particular)])
        assert result.exit_code == 0, result.output
        assert ("int8: not replayed, it would not be taken on this processor" in result.stdout) == unfit
        assert ("int8: 3 golden answers replayed" in result.stdout) != unfit
