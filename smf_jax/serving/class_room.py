"""Teaching and taking back while the server answers: one lesson at a time, on its own thread."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from smf_jax.checkpoints.files import write_text
from smf_jax.serving.errors import RequestError
from smf_jax.taught.config import ForgetConfig, TeachConfig, TrainingSection
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.forgetting import forget
from smf_jax.taught.record import Lesson
from smf_jax.taught.report import counts
from smf_jax.taught.teaching import teach

_FACTS = "page"  # the folder of the facts that were typed into the page


class ClassRoom:
    """What is being taught, and what came of the last lesson."""

    def __init__(self, directory: TaughtDirectory, training: TrainingSection) -> None:
        self._directory, self._training = directory, training
        self._lock = threading.Lock()
        self._doing, self._since, self._last = "", 0.0, ""
        self._failed = False

    def status(self) -> dict[str, Any]:
        """What goes on, for how many seconds, and how the last lesson ended."""
        with self._lock:
            seconds = time.monotonic() - self._since if self._doing else 0.0
            told = {"doing": self._doing, "seconds": round(seconds, 1), "last": self._last}
            return {**told, "failed": self._failed}

    def teach(self, question: str, answer: str) -> None:
        """Begins to teach a fact; a `RequestError` while something else is done."""
        self._begin(f"teaching: {question} {answer}", lambda: self._taught(question, answer))

    def take_back(self, patch: str) -> None:
        """Begins to take a patch back; a `RequestError` while something else is done."""
        self._begin(f"taking back: {patch}", lambda: self._forgotten(patch))

    def _begin(self, what: str, work: Callable[[], str]) -> None:
        with self._lock:
            if self._doing:
                raise RequestError(409, f"{self._doing}: wait until that is done")
            self._doing, self._since, self._last = what, time.monotonic(), ""
        threading.Thread(target=self._do, args=(work,), name="smf lesson", daemon=True).start()

    def _do(self, work: Callable[[], str]) -> None:
        failed, told = True, "the process is ending"
        try:
            told, failed = work(), False
        except (ValueError, OSError) as error:  # of the user, or of the files
            told = str(error)
        except Exception as error:  # ours; the server goes on
            traceback.print_exc()
            told = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._doing, self._last, self._failed = "", told, failed

    def _taught(self, question: str, answer: str) -> str:
        folder = self._directory.path / _FACTS
        folder.mkdir(exist_ok=True)
        number = 1
        while (file := folder / f"fact_{number}.jsonl").exists():
            number += 1
        fact = {"question": question, "answer": answer}
        write_text(file, json.dumps(fact, ensure_ascii=False) + "\n")
        config = replace(
            TeachConfig(training=self._training),
            arguments=(str(self._directory.path), str(file)),
        )
        found = teach(config)
        if found.lesson is None:
            return "the model was taught this already"
        return _told(found.lesson)

    def _forgotten(self, patch: str) -> str:
        _, gone = forget(ForgetConfig((str(self._directory.path), patch)))
        return "; ".join(f"{e.name} taken back: {e.rows:,} rows are as before it" for e in gone)


def _told(lesson: Lesson) -> str:
    lines = [f"{lesson.name}: {counts(lesson)}; {lesson.seconds:.0f} s"]
    if lesson.after is not None and lesson.after.known is not None:
        lines.append(f"known answers kept: {lesson.after.known} of {lesson.after.of}")
    return "; ".join(lines)
