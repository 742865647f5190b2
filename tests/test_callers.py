"""Batches side by side: the same answers in the same order, by a session that is made once and only where needed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from burnish_serve import TASKS, Runner, load
from burnish_serve.callers import Callers
from burnish_serve.text import TextEncoder


class Slow:
    """A session that counts tokens, waits longer for the first batches, and knows how many callers it had at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = self.now = self.most = 0

    def run(self, output_names, input_feed):
        with self.lock:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)
            wait = 0.02 if self.calls < 3 else 0.001
        time.sleep(wait)
        with self.lock:
            self.now -= 1
        tokens = input_feed["attention_mask"].sum(axis=1, dtype=np.float32)
        return [np.stack([-tokens, tokens], axis=1)]


@pytest.fixture
def make_runner(tiny_bundle):
    """Return a function that makes a runner of three callers of its second session."""

    def make(session, second) -> Runner:
        return Runner(
            task=TASKS["text-classification"],
            labels=("few", "many"),
            encoder=TextEncoder(tiny_bundle / "tokenizer.json", 16),
            session=session,
            inputs=("input_ids", "attention_mask"),
            pad_token_id=0,
            variant="counter",
            max_batch_tokens=8,
            callers=Callers(second, 3),
        )

    return make


def test_order_is_kept_and_the_session_is_made_once(make_runner):
    alone, crowd, made = Slow(), Slow(), []
    model = make_runner(alone, lambda: made.append(1) or crowd)
    rows = ["film " * (n % 6) for n in range(60)]
    for _ in range(2):
        assert model.logits(rows)[:, 1].tolist() == [n % 6 + 2 for n in range(60)]
    assert made == [1]
    assert alone.calls == 0
    assert crowd.most == 3


def test_one_batch_has_all_threads_of_the_first_session(make_runner):
    alone = Slow()
    model = make_runner(alone, lambda: pytest.fail("no second session is needed"))
    model(["great film"])
    assert alone.calls == 1


def test_an_error_in_a_batch_is_the_callers(make_runner):
    class Broken(Slow):
        def run(self, output_names, input_feed):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        make_runner(Slow(), Broken)(["film"] * 40)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize("for_files", [False, True])
def test_a_bundle_answers_the_same_with_one_thread_and_with_several(tiny_bundle, variant, for_files):
    rows = ["great film " * (n % 5) + "dull" * (n % 3) for n in range(400)]
    one = load(tiny_bundle, variant=variant, threads=1)
    assert one.callers is None
    several = load(tiny_bundle, variant=variant, threads=2, for_files=for_files)
    assert several.callers is not None
    assert several.logits(rows).tobytes() == one.logits(rows).tobytes()
