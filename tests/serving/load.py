"""Many clients at once on one server: no answer may come from another set of patches.

    python -m tests.serving.load [DIR] [--seconds=120] [--clients=32]

Serves a taught model (a tiny one, which is made first, if DIR is not given) in a process of its
own, on a free port of this machine, and lets clients ask it all at once, each request by another
set of patches. What a set answers is computed here beforehand, from the files of the model, and
without the server.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import jax
import numpy as np

from smf_jax.models.completion import complete_texts
from smf_jax.models.decoder import plain_logits
from smf_jax.serving.patch_names import listed_names, places_of, require_whole
from smf_jax.taught.directory import TaughtDirectory

STEPS = 8  # tokens of an answer
PATIENCE = 900  # seconds: of a client, which are those of the longest run and some
CLOSE = 2e-3  # nats: of rounding; two sets differ by far more, or a text does not tell them apart
PROMPTS = ("Question: 5 5 5 5 5 5 5\nAnswer:", "Thing number 5 stands beside", "Who who who who?")


class Known(NamedTuple):
    """What one set of patches says to one prompt."""

    text: str
    log_probabilities: np.ndarray  # of the prompt's tokens, from the second on


References = Mapping[str, Mapping[str, Known]]  # by name of the set, then by prompt


def references(path: str, prompts: tuple[str, ...] = PROMPTS) -> References:
    """What each set answers, by the model itself."""
    directory = TaughtDirectory(path)
    base, record = directory.load_base(), directory.read()
    patches = directory.load_patches(record)
    logits = jax.jit(plain_logits(base.model))
    found: dict[str, dict[str, Known]] = {}
    for name in listed_names(record):
        try:
            require_whole(record, patches, places := places_of(record, name))
        except ValueError:
            continue
        chosen = [patches[place] for place in places]
        params = directory.load_params(base, chosen) if chosen else base.params
        texts = complete_texts(base.model, params, base.tokenizer, prompts, STEPS)
        found[name] = {}
        for prompt, text in zip(prompts, texts, strict=True):
            ids = base.tokenizer.encode_prompt(prompt)
            tokens = np.zeros((1, 64), np.int32)
            tokens[0, : len(ids)] = ids
            raw = logits(params, tokens, np.arange(64)[None] < len(ids))[0]
            logs = np.asarray(jax.nn.log_softmax(raw))
            scored = np.array([logs[place, token] for place, token in enumerate(ids[1:])])
            found[name][prompt] = Known(text, scored)
    return found


class Client(threading.Thread):
    """Asks a question a turn, in every way, and looks at each answer."""

    def __init__(self, url: str, known: References, turns: Iterable[object], seed: int) -> None:
        super().__init__(daemon=True)
        self._url, self._known, self._turns = url, known, turns
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self) -> None:
        ways = [self._score] * 4 + [self._complete] * 3 + [self._stream] * 2
        ways += [self._hang_up, self._ask]
        with httpx.Client(base_url=self._url, timeout=120) as http:
            for _ in self._turns:
                name = self._random.choice(sorted(self._known))
                prompt = self._random.choice(sorted(self._known[name]))
                way = self._random.choice(ways)
                try:
                    way(http, name, prompt)
                except Exception as error:  # whatever it is, it is told
                    self.faults.append(f"{way.__name__} {name}: {type(error).__name__}: {error}")

    def _post(self, http: httpx.Client, path: str, body: dict) -> dict | None:
        found = http.post(path, json=body)
        if found.status_code == 429:
            self.counts["told to come back"] += 1
            time.sleep(0.2)
            return None
        if found.status_code != 200:
            raise ValueError(f"status {found.status_code}: {found.text[:200]}")
        return found.json()

    def _score(self, http: httpx.Client, name: str, prompt: str) -> None:
        body = {"model": name, "prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 1}
        if told := self._post(http, "/v1/completions", body):
            heard = np.array(told["choices"][0]["logprobs"]["token_logprobs"][1:])
            expected = self._known[name][prompt].log_probabilities
            self._judge("scored", name, bool(np.abs(heard - expected).max() < CLOSE))

    def _complete(self, http: httpx.Client, name: str, prompt: str) -> None:
        body = {"model": name, "prompt": prompt, "max_tokens": STEPS}
        if told := self._post(http, "/v1/completions", body):
            text = told["choices"][0]["text"]
            self._judge("completed", name, text == self._known[name][prompt].text)

    def _stream(self, http: httpx.Client, name: str, prompt: str) -> None:
        body = {"model": name, "prompt": prompt, "max_tokens": STEPS, "stream": True}
        text = ""
        with http.stream("POST", "/v1/completions", json=body) as events:
            if events.status_code == 429:
                self.counts["told to come back"] += 1
                return
            for line in events.iter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["text"]
        self._judge("streamed", name, text == self._known[name][prompt].text)

    def _hang_up(self, http: httpx.Client, name: str, prompt: str) -> None:
        body = {"model": name, "prompt": prompt, "max_tokens": 30, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as events:
            next(events.iter_raw(), b"")
        self.counts["hung up"] += 1

    def _ask(self, http: httpx.Client, name: str, prompt: str) -> None:
        del prompt
        body = {"question": "Who?", "models": ["base", name], "max_tokens": 2}
        if told := self._post(http, "/api/ask", body):
            patches = [len(each["patches_on"]) for each in told["answers"]]
            self._judge("asked", name, patches[0] == 0 and (patches[1] > 0) == (name != "base"))

    def _judge(self, what: str, name: str, right: bool) -> None:
        self.counts[what] += 1
        if not right:
            self.faults.append(f"{what} by {name}: the answer is not that of this set")


def turns_for(seconds: float) -> Iterator[None]:
    """Turns until so many seconds have gone by."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def hammer(
    url: str, known: References, turns: Callable[[], Iterable[object]], clients: int
) -> tuple[Counter, list[str]]:
    """Lets clients ask, each as many turns as `turns` makes; what they counted, and every fault."""
    asking = [Client(url, known, turns(), seed) for seed in range(clients)]
    for each in asking:
        each.start()
    for each in asking:
        each.join(PATIENCE)
    counts, faults = Counter(), [fault for each in asking for fault in each.faults]
    for each in asking:
        counts += each.counts
        if each.is_alive():
            faults.append("a client was never answered")
    return counts, faults


@contextmanager
def process(path: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server in a process of its own, and where it listens."""
    command = [sys.executable, "-m", "smf_jax", "serve", path, "--port=0", "--read_only"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if found := re.match(r"(http://\S+)/ is the page", line):
                    yield server, found[1]
                    break
        finally:
            server.terminate()


def megabytes(server: subprocess.Popen) -> float:
    """What a process holds in memory."""
    told = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", told)
    assert found is not None
    return int(found[1]) / 1024


def tiny_model(directory: Path) -> str:
    """Makes a tiny model and teaches it three patches."""
    from tests.fixtures import make_plain_checkpoint
    from tests.taught.tiny import FLAGS, files, teach_tiny

    plain, given = make_plain_checkpoint(directory / "plain"), files(directory)
    out = directory / "model"
    teach_tiny(plain, given["facts"], out=out, background=given["text"], **FLAGS)
    lesson = ("facts_per_task", "steps", "steps_per_round", "batch_size", "slots", "lr")
    teach_tiny(out, given["more"], **{name: FLAGS[name] for name in lesson})
    return str(out)


def main() -> int:
    """Runs it, and tells how much was asked, what was wrong, and what memory was held."""
    parser = argparse.ArgumentParser(description="many clients at once on one server")
    parser.add_argument("directory", nargs="?", default="")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=32)
    told = parser.parse_args()
    if not (0 < told.seconds <= 600 and 0 < told.clients <= 128):
        parser.error("expected at most 600 seconds and 128 clients")
    with tempfile.TemporaryDirectory() as temporary:
        path = told.directory or tiny_model(Path(temporary))
        known = references(path)
        print(f"{len(known)} sets: {', '.join(known)}", flush=True)
        with process(path) as (server, url):
            first = min(20.0, told.seconds)  # in which programs are compiled
            hammer(url, known, lambda: turns_for(first), told.clients)
            held = [megabytes(server)]
            begun, counts, faults = time.monotonic(), Counter(), []
            part = told.seconds / 4
            for _ in range(4):
                some, wrong = hammer(url, known, lambda: turns_for(part), told.clients)
                counts, faults = counts + some, faults + wrong
                held.append(megabytes(server))
            seconds, alive = time.monotonic() - begun, server.poll() is None
        print(f"{told.clients} clients, {seconds:.0f} s: {dict(counts)}")
        print(f"MB held after each quarter: {', '.join(f'{each:.0f}' for each in held)}")
        print(f"{len(faults)} faults; the server is {'up' if alive else 'DOWN'}")
        print("\n".join(faults[:20]))
    return 0 if alive and not faults else 1


if __name__ == "__main__":
    sys.exit(main())
