"""Integrated gradients: how much each token of a text moves a checkpoint's answer, as `burnish explain` asks.

The gradient of the answer by the word vectors is added up on the straight way from a text of padding to the text
(Sundararajan et al., 2017, arXiv:1703.01365), by captum. So the sum over all tokens is how far the answer moves between
the two; what is missing of it is the convergence delta, which more steps make smaller.

>>> values, delta = attribute(model, window, baseline, column=0, steps=50)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import torch
from captum.attr import LayerIntegratedGradients

from burnish_serve.errors import InputError
from burnish_serve.explaining.methods import Weights, exclusive
from burnish_serve.runner import Runner, model_inputs
from burnish_serve.tasks import Encoded
from burnish_train.checkpoint import MAX_BATCH_TOKENS, TorchSession


def attribute(model: Runner, window: Encoded, baseline: Encoded, column: int, steps: int) -> tuple[Weights, float]:
    """Return what each token of a text adds to the log-odds of a label, and the convergence delta.

    Args:
        model: a checkpoint's.
        window: what the model reads.
        baseline: the same with tokens that say nothing in place of words.
        column: which label.
        steps: points of the way at which the gradient is taken, by Gauss-Legendre.

    Returns:
        float64 ``[tokens]``, in units of log-odds, or of the number that is predicted; and how far their sum is from
        the difference between the text and the baseline.

    Raises:
        InputError: it is not PyTorch that computes.
    """
    if not isinstance(model.session, TorchSession):
        raise InputError("a bundle has no gradients: give the checkpoint that it was exported from, or occlusion")
    network = model.session.model
    given, blank = (
        {name: torch.from_numpy(array).to(network.device) for name, array in inputs.items()}
        for inputs in (model_inputs([one], model.inputs, model.pad_token_id) for one in (window, baseline))
    )
    rest = [name for name in model.inputs if name != "input_ids"]

    def forward(ids: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        logits = network(input_ids=ids, **dict(zip(rest, others, strict=True))).logits
        return log_odds(logits.double() / model.reading.decoding.temperature, column, exclusive=exclusive(model.task))

    layer, ids, others = network.get_input_embeddings(), given["input_ids"], tuple(given[name] for name in rest)
    values = LayerIntegratedGradients(forward, layer).attribute(
        ids,
        blank["input_ids"],
        additional_forward_args=others,
        n_steps=steps,
        internal_batch_size=max(1, MAX_BATCH_TOKENS // len(window.ids)),
    )
    with torch.no_grad():
        vectors, high = layer(blank["input_ids"]), forward(ids, *others)
        # captum's own delta asks for the baseline's ids, by which RoBERTa numbers positions: here it is the text's.
        with layer.register_forward_hook(lambda *_: vectors):
            low = forward(ids, *others)
    return values[0].sum(-1).double().cpu().numpy(), float(values.sum() - (high - low))


def log_odds(logits: Any, column: int, *, exclusive: bool) -> Any:
    """Return the log-odds of one label ``[rows]``: of a softmax over all where labels are exclusive, else the logit."""
    own = logits[:, column]
    if not exclusive or logits.shape[1] == 1:
        return own
    others = torch.cat([logits[:, :column], logits[:, column + 1 :]], dim=1)
    return own - others.logsumexp(dim=1)
