"""Answers against a slow reference, written from what transformers 4.57 does, and windows against transformers'.

transformers 5 has no pipeline for question answering; `make compat` holds bundles against the one of 4.57.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from burnish_serve.errors import InputError
from tiny_questions import drawn, encoder, runner

PIECES = [
    "great",
    "film",
    "dulls",
    "Loveing",
    "é",
    "未来",
    "👍🏽",
    "😀",
    "!",
    ".",
    "xex",
    "e\u0301",
    "[SEP]",
    "\u200d",
    "the",
]
pieces = st.sampled_from(PIECES)
spaces = st.sampled_from([" ", "", "  ", "\u3000"])
contexts = st.lists(st.tuples(pieces, spaces), min_size=1, max_size=25).map(lambda parts: "".join(map("".join, parts)))
questions = st.lists(pieces, min_size=1, max_size=4).map(" ".join)


@pytest.fixture(scope="module")
def path(tiny_bundle):
    return tiny_bundle / "tokenizer.json"


@pytest.fixture(scope="module")
def theirs(path):
    return PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="[PAD]", cls_token="[CLS]")


def slowly(theirs, question, context, logits, *, max_length, stride, top_k, longest, impossible, whole):
    """Return the answers by the algorithm of transformers 4.57 as its page and code describe it, span by span."""
    batch = theirs(
        question,
        context,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    answers, null = [], 10**6
    for number in range(len(batch["input_ids"])):
        sequences, words = batch.sequence_ids(number), batch.word_ids(number)
        allowed = [place == 0 or sequences[place] == 1 for place in range(len(sequences))]
        chances = []
        for side in range(2):
            exps = [math.exp(float(logits[number][i, side])) if allowed[i] else 0.0 for i in range(len(sequences))]
            chances.append([one / sum(exps) for one in exps])
        null = min(null, chances[0][0] * chances[1][0])
        spans = [
            (chances[0][start] * chances[1][end], start, end)
            for start in range(1, len(sequences))
            for end in range(start, min(start + longest, len(sequences)))
            if allowed[start] and allowed[end]
        ]
        spans.sort(reverse=True)
        for score, start, end in spans[: 2 * top_k + 10 if whole else top_k]:
            first, last = batch["offset_mapping"][number][start][0], batch["offset_mapping"][number][end][1]
            if whole:
                inside = [i for i, sequence in enumerate(sequences) if sequence == 1]
                first = min(batch["offset_mapping"][number][i][0] for i in inside if words[i] == words[start])
                last = max(batch["offset_mapping"][number][i][1] for i in inside if words[i] == words[end])
            for answer in answers:
                if answer["answer"].lower() == context[first:last].lower():
                    answer["score"] += score
                    break
            else:
                answers.append({"score": score, "start": first, "end": last, "answer": context[first:last]})
    if impossible:
        answers.append({"score": null, "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda answer: -answer["score"])[:top_k]


@settings(max_examples=100)
@given(
    question=questions,
    context=contexts,
    max_length=st.sampled_from([28, 40, 120]),
    stride=st.integers(0, 3),
    top_k=st.integers(1, 6),
    longest=st.integers(1, 20),
    impossible=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_answers_are_those_of_the_slow_reference(
    path, theirs, question, context, max_length, stride, top_k, longest, impossible, whole, seed
):
    context *= 1 + seed % 3
    model = runner(path, drawn(seed), max_length, stride)
    asked = model.encode([{"question": question, "context": context}])
    outputs = model.outputs(asked)
    if not any((window.words >= 0).any() for window in asked[0].windows):
        return
    chosen = {"top_k": top_k, "max_answer_len": longest, "handle_impossible_answer": impossible}
    (ours,) = model.decode(asked, outputs, align_to_words=whole, **chosen)
    ours = ours if isinstance(ours, list) else [ours]
    wanted = slowly(
        theirs,
        question,
        context,
        outputs[0],
        max_length=max_length,
        stride=stride,
        top_k=top_k,
        longest=longest,
        impossible=impossible,
        whole=whole,
    )
    assert ours == [{**answer, "score": pytest.approx(answer["score"], abs=1e-6)} for answer in wanted]
    for answer in ours:
        assert context[answer["start"] : answer["end"]] == answer["answer"]


@given(
    question=questions,
    context=contexts,
    max_length=st.integers(24, 70),
    stride=st.integers(0, 40),
    seed=st.integers(0, 9),
)
def test_windows_are_those_of_transformers(path, theirs, question, context, max_length, stride, seed):
    context = context * (1 + seed)
    room = max_length - len(theirs(question)["input_ids"]) - 1
    try:
        ((*windows,),) = encoder(path, max_length, stride)([(question, context)])
    except InputError:
        assert room < 1
        return
    if stride >= room:  # where theirs ends in a panic, ours goes on with another stride
        assert all(len(window.ids) <= max_length for window in windows)
        assert len(windows) <= 2 * len(theirs(context)["input_ids"]) / room + 1
        return
    batch = theirs(
        question,
        context,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    assert [window.ids.tolist() for window in windows] == batch["input_ids"]
    assert [window.type_ids.tolist() for window in windows] == batch["token_type_ids"]
    assert [list(map(tuple, window.offsets.tolist())) for window in windows] == batch["offset_mapping"]
    of_context = [[sequence == 1 for sequence in batch.sequence_ids(i)] for i in range(len(windows))]
    assert [(window.words >= 0).tolist() for window in windows] == of_context
    assert not any(window.truncated for window in windows)


@given(context=contexts, stride=st.integers(0, 300), seed=st.integers(0, 2**16))
def test_a_context_that_fits_has_the_same_answer_whatever_the_stride(path, context, stride, seed):
    row = {"question": "what", "context": context}
    one, other = (runner(path, drawn(seed), 512, number)(row, top_k=3) for number in (0, stride))
    assert one == other
