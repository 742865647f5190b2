"""How a bundle becomes a runner: the variant that fits the processor, a session that was seen to run, its tokenizer.

>>> model = load("bundle/", device="cpu", threads=1)  # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve import machine
from burnish_serve.bundle import Bundle
from burnish_serve.callers import Callers
from burnish_serve.choice import choose
from burnish_serve.errors import BundleError, DeviceError, InputError
from burnish_serve.graphs import Graphs
from burnish_serve.runner import MAX_BATCH_TOKENS, RUN_TOKENS, Runner, model_inputs
from burnish_serve.session import CPU, CUDA, OPENVINO, Feed, Session, create_session, provider_for, tried_session
from burnish_serve.signature import open_signed
from burnish_serve.tasks import Encoded, task_named
from burnish_serve.text import encoder_for
from burnish_serve.tuning import Tuning, place, read

# Padded tokens of one batch where many more than on a CPU are faster (bench/LOG.md).
BATCH_TOKENS = {CUDA: 8192}


def load(
    folder: str | Path,
    *,
    device: str = "auto",
    provider: str | None = None,
    variant: str | None = None,
    threads: int | None = None,
    max_batch_tokens: int | None = None,
    public_key: str | Path | None = None,
    on_long: str | None = None,
    for_files: bool = False,
) -> Runner:
    """Return a runner for a bundle.

    Args:
        folder: the bundle.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where it works.
        provider: ``cpu``, ``cuda``, ``openvino`` or ``tensorrt``, which decides and implies the device.
        variant: a variant's name; None for the manifest's default.
        threads: threads of one run; None for as many as this process may use.
        max_batch_tokens: padded tokens of one batch at the most; None for what was seen to suit the provider.
        public_key: refuses a bundle that was not signed with the private half of this key; None asks for no signature.
        on_long: ``error``, ``truncate`` or ``window`` for texts longer than the model; None for the task's way.
        for_files: for many rows at a time alone: a single batch is computed by one thread, and less memory is taken.

    Raises:
        InputError: there is no such folder or variant, or device and provider contradict each other.
        BundleError: the bundle is damaged or refused.
        MissingExtraError: a key is given, and the extra ``sign`` is not installed.
        DeviceError: the device or the provider cannot be used.
    """
    return open_runner(
        open_signed(folder, public_key),
        device=device,
        provider=provider,
        variant=variant,
        threads=threads,
        max_batch_tokens=max_batch_tokens,
        on_long=on_long,
        for_files=for_files,
    )


def open_runner(
    bundle: Bundle,
    *,
    device: str = "auto",
    provider: str | None = None,
    variant: str | None = None,
    threads: int | None = None,
    max_batch_tokens: int | None = None,
    on_long: str | None = None,
    for_files: bool = False,
    tuning: Tuning | None = None,
) -> Runner:
    """Return a runner for a bundle that is open already; see `load`.

    Without ``tuning`` it is what `burnish_serve.tuning` has of this machine.
    """
    chosen = provider_for(device, provider)
    if conflict := machine.wheel_conflict():
        warnings.warn(conflict, RuntimeWarning, stacklevel=3)
    manifest = bundle.manifest
    if variant is not None and variant not in manifest.variants:
        raise InputError(f"{bundle.folder} has no variant {variant!r}; it has: {', '.join(manifest.variants)}")
    name, remark = choose(manifest, chosen, machine.cpu_features(), variant)
    if remark:
        warnings.warn(remark, RuntimeWarning, stacklevel=3)
    try:
        count = threads or machine.num_threads()
        tuned = tuning or read(place(bundle, name, chosen, count)) or Tuning()
        if tuned.openvino and chosen == CPU and provider is None:
            chosen = OPENVINO
        several = chosen == CPU and count > 1 and tuned.callers
        own = 1 if several and for_files else count
        session, nodes = _open_session(bundle, name, chosen, own, tuned)
    except DeviceError as error:
        if provider is not None or (device != "auto" and chosen != OPENVINO):
            raise
        warnings.warn(f"taking the CPU: {error}", RuntimeWarning, stacklevel=3)
        return open_runner(
            bundle,
            provider="cpu",
            variant=variant,
            threads=threads,
            max_batch_tokens=max_batch_tokens,
            on_long=on_long,
            for_files=for_files,
            tuning=tuning,
        )
    path = bundle.path(manifest.variants[name].file)
    made = (lambda: session) if for_files else (lambda: create_session(path, threads=1))
    task = task_named(manifest.task)
    return Runner(
        task=task,
        labels=manifest.labels,
        encoder=encoder_for(task, bundle.path("tokenizer.json"), manifest.max_length, manifest.stride, on_long),
        session=session,
        inputs=manifest.inputs,
        pad_token_id=manifest.pad_token_id,
        variant=name,
        decoding=manifest.decoding,
        max_batch_tokens=max_batch_tokens or tuned.max_batch_tokens or BATCH_TOKENS.get(chosen, MAX_BATCH_TOKENS),
        # Where answers depend on the batch, batches stay those in which the golden rows were answered.
        run_tokens=RUN_TOKENS if chosen == CPU and manifest.variants[name].batch_invariant else None,
        provider=chosen,
        nodes=nodes,
        callers=Callers(made, count) if several else None,
        pairs=bool(manifest.golden_rows) and not task.apart and all(len(row) == 2 for row in manifest.golden_rows),
    )


def _open_session(
    bundle: Bundle, name: str, provider: str, threads: int, tuned: Tuning
) -> tuple[Session, dict[str, int] | None]:
    """Return a variant's session, and how many nodes of a first run were on each provider; on the CPU none is made."""
    manifest = bundle.manifest

    def first_feed(session: Any) -> Feed:
        """Refuse a graph that is not the manifest's, and return a row of one token for it."""
        width = session.get_outputs()[0].shape[-1]
        if manifest.labels and isinstance(width, int) and width != len(manifest.labels):
            raise BundleError(
                f"{bundle.folder} is refused: {len(manifest.labels)} labels for {width} outputs of {name}"
            )
        if {item.name for item in session.get_inputs()} != set(manifest.inputs):
            raise BundleError(f"{bundle.folder} is refused: the inputs of {name} are not {', '.join(manifest.inputs)}")
        ids = np.full(1, manifest.pad_token_id, dtype=np.int64)
        return model_inputs([Encoded(ids, np.zeros_like(ids), False)], manifest.inputs, manifest.pad_token_id)

    path = bundle.path(manifest.variants[name].file)
    if provider != CPU:
        session, nodes = tried_session(path, first_feed, provider=provider, threads=threads)
        if provider == CUDA and tuned.cuda_graphs:
            recording = create_session(path, provider=provider, threads=threads, graphs=True)
            return Graphs(recording, manifest.max_length), nodes
        return session, nodes
    session = create_session(path, threads=threads, spinning=tuned.spinning)
    first_feed(session)
    return session, None
