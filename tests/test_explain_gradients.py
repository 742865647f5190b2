"""Integrated gradients of a checkpoint: held against the integral taken by hand, for both kinds of heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from scipy.special import logit

from bag import weights
from burnish_serve import TASKS, Runner, explain
from burnish_serve.errors import InputError
from burnish_serve.explaining import methods
from burnish_serve.tasks import Decoding
from burnish_serve.text import TextEncoder
from burnish_train import checkpoint
from burnish_train.heads import PooledClassifier
from burnish_train.insight import gradients
from tiny_model import LABELS, VOCABULARY, make_classifier, make_encoder, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
TEMPERATURE = 5.0


@pytest.fixture(scope="module", params=["bert", "roberta", "mean"])
def network(request, tmp_path_factory):
    """Return a checkpoint's runner around an untrained model: transformers' own heads, and one of ours.

    RoBERTa numbers positions by the ids, and padding has none.
    """
    folder = tmp_path_factory.mktemp("network")
    if request.param == "bert":
        make_classifier(folder)
        made = transformers.BertForSequenceClassification.from_pretrained(folder)
    elif request.param == "roberta":
        make_tokenizer().save_pretrained(folder)
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.RobertaConfig(
            vocab_size=len(VOCABULARY),
            **sizes,
            max_position_embeddings=40,
            type_vocab_size=1,
            initializer_range=0.5,
            pad_token_id=0,
            num_labels=len(LABELS),
        )
        made = transformers.RobertaForSequenceClassification(config)
    else:
        make_encoder(folder)
        torch.manual_seed(0)
        made = PooledClassifier(transformers.AutoModel.from_pretrained(folder), len(LABELS), "mean")
        torch.nn.init.normal_(made.classifier.weight)
    encoder = TextEncoder(folder / "tokenizer.json", 32)
    return checkpoint.runner_for(
        made, encoder, 0, TASKS["text-classification"], LABELS, Decoding(temperature=TEMPERATURE)
    )


def by_hand(model: Runner, ids: list[int], blank: list[int], column: int, steps: int) -> tuple[np.ndarray, list[float]]:
    """Return integrated gradients of each token by Gauss-Legendre, through word vectors given from outside."""
    made = model.session.model
    table = made.get_input_embeddings().weight.detach()
    ends = [table[torch.tensor([one])] for one in (blank, ids)]

    def answer(vectors):
        if isinstance(made, PooledClassifier):
            logits = made.classifier(made.encoder(inputs_embeds=vectors).last_hidden_state.mean(1))
        else:
            logits = made(inputs_embeds=vectors).logits
        scores = torch.softmax(logits.double() / TEMPERATURE, -1)[0, column]
        return torch.log(scores) - torch.log1p(-scores)

    total = torch.zeros_like(ends[0])
    places, shares = np.polynomial.legendre.leggauss(steps)
    for place, share in zip((1 + places) / 2, shares / 2, strict=True):
        vectors = (ends[0] + place * (ends[1] - ends[0])).requires_grad_()
        total += share * torch.autograd.grad(answer(vectors), vectors)[0]
    with torch.no_grad():
        both = [float(answer(one)) for one in ends]
    return ((ends[1] - ends[0]) * total).sum(-1)[0].numpy(), both


def test_gradients_are_the_integral_by_hand(network):
    text = "please wake me, songs 🙂"
    (found,) = explain(network, [text], steps=20)
    assert explain(network, [text], method="gradients", steps=20) == [found]
    encoding = network.encoder.tokenizer.encode(text)
    assert encoding.tokens == ["[CLS]", "please", "wake", "me", ",", "song", "##s", "[UNK]", "[SEP]"]
    blank = [encoding.ids[0], *[0] * 7, encoding.ids[-1]]
    column = network.labels.index(found.answer["label"])
    tokens, (low, high) = by_hand(network, encoding.ids, blank, column, 20)
    assert tokens[[0, -1]].tolist() == [0, 0]
    words = [tokens[1], tokens[2], tokens[3] + tokens[4], tokens[5] + tokens[6], tokens[7]]
    assert weights(found) == pytest.approx(words, abs=1e-4)
    assert high == pytest.approx(logit(found.answer["score"]), abs=1e-4)
    assert found.convergence_delta == pytest.approx(sum(words) - (high - low), abs=1e-4)


def test_more_steps_add_up_better(network):
    (few,), (many,) = (explain(network, ["please wake me again"], steps=steps) for steps in (2, 100))
    assert abs(many.convergence_delta) < 2e-3 < abs(few.convergence_delta)
    (usual,) = explain(network, ["please wake me again"])
    assert weights(usual) == pytest.approx(weights(explain(network, ["please wake me again"], steps=50)[0]), abs=1e-6)


def test_a_text_of_many_tokens_is_integrated_in_parts(network, monkeypatch):
    whole = explain(network, ["please wake me"], steps=20)
    monkeypatch.setattr(gradients, "MAX_BATCH_TOKENS", 15)
    parts = explain(network, ["please wake me"], steps=20)
    assert weights(parts[0]) == pytest.approx(weights(whole[0]), abs=1e-5)


def test_occlusion_works_on_a_checkpoint_too(network):
    (found,) = explain(network, ["please wake me"], method="occlusion")
    texts = ["please wake me", "wake me", "please me", "please wake"]
    scores = [{one["label"]: one["score"] for one in row}[found.answer["label"]] for row in network(texts, top_k=None)]
    assert weights(found) == pytest.approx((logit(scores[0]) - logit(scores[1:])).tolist(), abs=1e-4)
    assert found.convergence_delta is None


@pytest.mark.parametrize(("task", "labels"), [("regression", 1), ("multi-label-classification", 3)])
def test_gradients_of_numbers_and_of_labels_apart_are_those_of_the_logit(network, task, labels):
    logits = torch.randn(4, labels)
    assert torch.equal(gradients.log_odds(logits, 0, exclusive=methods.exclusive(TASKS[task])), logits[:, 0])


def test_the_log_odds_of_both_methods_are_one(tiny_model):
    logits = np.random.default_rng(0).normal(scale=100, size=(50, 4)).astype(np.float32)
    for column in range(4):
        expected = gradients.log_odds(torch.from_numpy(logits).double(), column, exclusive=True).numpy()
        assert methods.log_odds(tiny_model, logits, column) == pytest.approx(expected, abs=1e-9)


def test_log_odds_are_those_of_the_score_and_move_where_it_is_saturated(tiny_model):
    logits = np.array([[2, 1], [200, 1], [190, 1]], dtype=np.float32)
    found = methods.log_odds(tiny_model, logits, 0)
    assert found[0] == pytest.approx(logit(np.exp(2) / (np.exp(2) + np.exp(1))))
    assert found[1] - found[2] == pytest.approx(10)


def test_windows_have_no_gradients(network):
    network.encoder.on_long = "window"
    network.encoder.tokenizer.no_truncation()
    try:
        with pytest.raises(InputError, match="row 2 is read in windows: explain it by occlusion, or with --on-long"):
            explain(network, ["wake me", "wake me " * 40])
    finally:
        network.encoder.on_long = "truncate"
        network.encoder.tokenizer.enable_truncation(32)
