"""``smf``: teaches a model a file of facts, asks it, and takes back what it was taught."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from smf_jax.command import run
from smf_jax.progress import say
from smf_jax.serving.config import ServeConfig
from smf_jax.taught.asking import answer_text, ask
from smf_jax.taught.checking import check, found_text, list_text, listed
from smf_jax.taught.config import (
    AskConfig,
    CheckConfig,
    ExportConfig,
    ForgetConfig,
    ListConfig,
    MergeConfig,
    TeachConfig,
)
from smf_jax.taught.exporting import export
from smf_jax.taught.forgetting import forget, forget_fact
from smf_jax.taught.merging import merge
from smf_jax.taught.report import REPORT, checks_lines, commands, counts, report
from smf_jax.taught.teaching import teach


def teach_facts(config: TeachConfig) -> int:
    """Teaches, and tells what came of it; returns 1 where a fact is not known in the end."""
    directory, record, lesson = teach(config)
    if lesson is None:
        say(f"{directory.path} was taught all of these facts already: nothing to do")
        return 0
    say(f"\n{lesson.name}: {counts(lesson)}; {lesson.seconds:.0f} s")
    for fact in lesson.facts:
        if fact.status in ("not learned", "lost"):
            heard = " / ".join(dict.fromkeys(said.said or "(nothing)" for said in fact.after))
            say(f"  {fact.status}: {fact.question} {fact.answers[0]} (says {heard})")
    if left := sum(fact.status == "left" for fact in lesson.facts):
        say(
            f"  left: {left} facts, as --minutes={config.training.minutes:g} are over; give the "
            "same command again to go on"
        )
    for line in checks_lines(lesson.before, lesson.after) if lesson.after else ():
        say(f"  {line}")
    say("\n".join(["", str(directory.path / REPORT), "", *commands(record, str(directory.path))]))
    return 0 if all(fact.is_done for fact in lesson.facts) else 1


def ask_questions(config: AskConfig) -> int:
    """Prints the answers; of a file with answers also how many are right."""
    found = ask(config)
    if config.json:
        print(json.dumps([answer.to_json() for answer in found], indent=2, ensure_ascii=False))
        return 0
    print("\n\n".join(map(answer_text, found)))
    known = [answer.is_right for answer in found if answer.is_right is not None]
    if known:
        print(f"\n{sum(known)} of {len(known)} as expected")
    return 0


def list_patches(config: ListConfig) -> int:
    """Prints lessons, patches and commands."""
    directory, record = listed(config)
    if config.json:
        print(json.dumps(report(record), indent=2, ensure_ascii=False))
    else:
        print(list_text(directory, record))
    return 0


def forget_patches(config: ForgetConfig) -> int:
    """Takes patches back, or one fact, and says what went."""
    if config.fact:
        record, found = forget_fact(config)
        heard = " / ".join(dict.fromkeys(said.said or "(nothing)" for said in found.fact.after))
        say(f"{found.fact.question} taken back: {found.rows:,} rows are as before (says {heard})")
        say(f"{len(record.current())} other facts are answered")
        for question in found.lost:
            say(f"  lost: {question}")
        return 0
    record, gone = forget(config)
    for entry in gone:
        say(f"{entry.name} taken back: {entry.rows:,} rows are as before it")
    say(f"{len(record.patches)} patches are left")
    return 0


def check_model(config: CheckConfig) -> int:
    """Prints what a check has found; returns 1 where a learned fact is not answered."""
    found = check(config)
    print(json.dumps(found._asdict()) if config.json else found_text(found))
    return 1 if found.lost else 0


def serve_model(config: ServeConfig) -> int:
    """Serves a taught model until it is stopped."""
    try:
        from smf_jax.serving.server import serve
    except ImportError as error:
        raise ValueError(
            f"smf serve needs {error.name}, which is not installed: pip install "
            "'smf_jax[serve]', in a clone pip install -e '.[serve]'"
        ) from None
    serve(config)
    return 0


def merge_models(config: MergeConfig) -> int:
    """Joins what models were taught, and says what is answered then."""
    was, record = merge(config)
    facts, before = len(record.current()), len(was.current())
    say(f"{len(record.patches)} patches; {facts} facts are answered, {before} before")
    lost = [f for each in record.lessons for f in each.facts if f.status == "lost"]
    for fact in lost:
        say(f"  lost: {fact.question}")
    return 1 if lost else 0


def export_taught(config: ExportConfig) -> int:
    """Writes a model for others to read, and says how it is read."""
    record, count = export(config)
    say(f"{config.out}: made of {record.model['path']}, {count} patches; see its README.md")
    return 0


class Verb(NamedTuple):
    """One verb of the command line."""

    main: Callable[[Any], int]
    config: type[Any]
    about: str
    example: str


VERBS: dict[str, Verb] = {
    "teach": Verb(
        teach_facts,
        TeachConfig,
        "teach a model the facts of a file, on top of what it was taught before",
        "smf teach MODEL FACTS --out=DIR --background=TEXT    or: smf teach DIR MORE_FACTS",
    ),
    "ask": Verb(
        ask_questions,
        AskConfig,
        "ask a taught model, and tell which patches its answers were read from",
        'smf ask DIR "QUESTION" … [--without]    or: smf ask DIR --file=QUESTIONS',
    ),
    "list": Verb(list_patches, ListConfig, "list what a model was taught", "smf list DIR"),
    "forget": Verb(
        forget_patches,
        ForgetConfig,
        "take patches back, to the bit, or the rows of one fact",
        "smf forget DIR PATCH …    or: smf forget DIR --fact=QUESTION",
    ),
    "merge": Verb(
        merge_models,
        MergeConfig,
        "put what other models of the same base were taught into one",
        "smf merge DIR OTHER …",
    ),
    "export": Verb(
        export_taught,
        ExportConfig,
        "write a taught model for others to read, its patches beside its base",
        "smf export DIR --out=NEW",
    ),
    "check": Verb(
        check_model,
        CheckConfig,
        "check files and digests, what differs from the base, and the answers again",
        "smf check DIR",
    ),
    "serve": Verb(
        serve_model,
        ServeConfig,
        "answer over HTTP, every set of patches a model, with a page to ask, teach and take back",
        "smf serve DIR [--port=8000]",
    ),
}


def usage() -> str:
    """The verbs, a line each."""
    lines = ["smf: teach a model a file of facts and take them back; nothing else changes", ""]
    for verb in VERBS.values():
        lines += [f"  {verb.example}", f"      {verb.about}"]
    return "\n".join([*lines, "", "smf VERB --help explains a verb's flags"])


def main() -> None:
    """Runs the verb that is typed, and exits as `smf_jax.command.run`."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "-help", "--helpfull"):
        print(usage())
        sys.exit(0)
    if name not in VERBS:
        print(f"error: {name!r} is no verb; choose from {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    verb = VERBS[name]
    run(
        verb.main,
        verb.config,
        verb.about,
        verb.example,
        positional="arguments",
        arguments=arguments,
        locks=False,
    )


if __name__ == "__main__":
    main()
