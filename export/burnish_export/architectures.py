"""What each known model type gives: how many products, normalizations and activations, and how they should be fused.

One line a model type, from its layers, what stands around them, and its heads. Hidden sizes do not matter: what is due
follows from the number of layers and a few keys of the configuration. docs/architectures.md has the counts themselves.

>>> due(transformers.BertConfig(), "token")["LayerNormalization"]  # doctest: +SKIP
25
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

PRODUCTS = "constant products"
# Ways to write GELU, by transformers' names, and what ONNX Runtime makes of one together with the bias before it.
GELUS = {
    **dict.fromkeys(("gelu", "gelu_python"), "BiasGelu"),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh"), "FastGelu"),
}


class Part(NamedTuple):
    """What a part of a model gives."""

    products: int = 0
    """Products with a constant matrix."""
    norms: int = 0
    """LayerNormalization."""
    attentions: int = 0
    """Softmax."""
    scaled: int = 0
    """FusedMatMul: products that take a scale or a transposition along."""
    ended: int = 0
    """FusedGemm: products of one vector a text that take their bias and their activation along."""
    activation: str = ""
    """A key of the configuration, or an activation by name; counted where it is a GELU."""
    biased: bool = False
    """Whether a bias stands right before the activation, which ONNX Runtime then takes along."""

    def counts(self, config: Any) -> Counter[str]:
        """Return the operators by name."""
        found = Counter(
            {
                PRODUCTS: self.products,
                "LayerNormalization": self.norms,
                "Softmax": self.attentions,
                "FusedMatMul": self.scaled,
                "FusedGemm": self.ended,
            }
        )
        fused = GELUS.get(getattr(config, self.activation, self.activation))
        if fused:
            found["Gelu"] += 1
            found[fused] += self.biased
        return found


class Family(NamedTuple):
    """What the models of one type give."""

    layer: Part
    around: Part
    """Embeddings, and whatever stands once."""
    text: Part
    """The head for labels of texts."""
    token: Part
    """The heads for labels of tokens, and for starts and ends."""


LAYER = Part(products=6, norms=2, attentions=1, scaled=1, activation="hidden_act", biased=True)
DISTIL = LAYER._replace(activation="activation")
GATED = Part(products=4, norms=2, attentions=1, scaled=1, activation="hidden_activation")
NORM, LINEAR, TWO = Part(norms=1), Part(products=1), Part(products=2)
POOLER = TWO._replace(ended=1)
CLASSIFIER = TWO._replace(norms=1, activation="classifier_activation")

FAMILIES = {
    # model type          a layer  around it           head of a text                               of a token
    "albert": Family(LAYER, Part(products=1, norms=1), POOLER, LINEAR),
    "bert": Family(LAYER, NORM, POOLER, LINEAR),
    "deberta-v2": Family(LAYER, NORM, TWO._replace(activation="pooler_hidden_act"), LINEAR),
    "distilbert": Family(DISTIL, NORM, POOLER, LINEAR),
    "electra": Family(LAYER, NORM, TWO._replace(activation="gelu"), LINEAR),
    "modernbert": Family(GATED, NORM, CLASSIFIER, CLASSIFIER),
    "mpnet": Family(LAYER, NORM, POOLER, LINEAR),
    "roberta": Family(LAYER, NORM, POOLER, LINEAR),
    "xlm-roberta": Family(LAYER, NORM, POOLER, LINEAR),
}
# What hangs on the configuration: a part, and how often it comes.
MORE: dict[str, list[tuple[Part, Callable[[Any], int]]]] = {
    "deberta-v2": [
        # a product with the positions for each kind of relative attention, in each layer
        (Part(scaled=1), lambda c: c.relative_attention * c.num_hidden_layers * len(c.pos_att_type or ())),
        (NORM._replace(activation="conv_act"), lambda c: getattr(c, "conv_kernel_size", 0) > 0),
    ],
    "electra": [(LINEAR, lambda c: c.embedding_size != c.hidden_size)],
}


def due(config: Any, head: str) -> Counter[str] | None:
    """Return what a model should give, in the exported graph and in ONNX Runtime's session.

    Args:
        config: transformers' configuration.
        head: ``text``, ``token``, ``pooled`` for a linear head on the encoder alone, or ``none``.

    Returns:
        How many of each operator, `PRODUCTS` among them; None for a model type that is not known.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        return None
    layers = config.num_hidden_layers * getattr(config, "inner_group_num", 1)
    heads = {"text": family.text, "token": family.token, "pooled": LINEAR, "none": Part()}
    parts = [*[family.layer] * layers, family.around, heads[head]]
    for part, times in MORE.get(config.model_type, []):
        parts += [part] * int(times(config))
    return sum((part.counts(config) for part in parts), Counter())
