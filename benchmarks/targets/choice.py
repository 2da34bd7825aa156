"""Which target a command asks, by its options."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmarks.driving.driver import HUNG_AFTER
from benchmarks.targets.http import HttpOptions, http_target
from benchmarks.targets.target import Question, Target, read_questions

if TYPE_CHECKING:
    from benchmarks.world.elsewhere import Elsewhere

__all__ = ["Aim", "Broken", "TargetOptions", "aimed", "unchecked"]

Broken = Literal["hangs", "wrong", "leaks", "drips", "apologises"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """Options that every command with a target has. Without any: the library in this process, and servers of its own with realistic latencies."""

    url: Annotated[str | None, typer.Option(help="Ask a service: the questions go here by POST.")] = None
    body: Annotated[
        str, typer.Option(help='JSON that is sent, "{question}" in the place of the question; or @file.')
    ] = '{"message": "{question}"}'
    sse: Annotated[bool, typer.Option(help="Ask for a stream of server-sent events.")] = False
    answer_path: Annotated[
        str | None, typer.Option(help="Where the text is in the answer: choices.0.message.content")
    ] = None
    delta_path: Annotated[str | None, typer.Option(help="Where a piece is in the data of an event.")] = None
    degraded_path: Annotated[
        str | None, typer.Option(help="Where the service says that an answer is not its best.")
    ] = None
    no_end_marker: Annotated[bool, typer.Option(help="Streams of this service don't say when they are whole.")] = False
    header_env: Annotated[
        list[str] | None, typer.Option(help="NAME=VARIABLE: a header whose value an environment variable holds.")
    ] = None
    token_file: Annotated[Path | None, typer.Option(help="File that holds a bearer token.")] = None
    token_env: Annotated[str | None, typer.Option(help="Environment variable that holds a bearer token.")] = None
    login_url: Annotated[str | None, typer.Option(help="Get a bearer token here first, by POST.")] = None
    login_body: Annotated[str | None, typer.Option(help="@file: JSON that is sent there.")] = None
    token_path: Annotated[str, typer.Option(help="Where the token is in what comes back.")] = "access_token"
    health_url: Annotated[str | None, typer.Option(help="Read before and after, for the report.")] = None
    insecure: Annotated[bool, typer.Option(help="Don't check certificates.")] = False
    pid: Annotated[int | None, typer.Option(help="The service's process on this machine, for its memory and CPU.")] = (
        None
    )
    reference: Annotated[bool, typer.Option(help="Ask ragcore's reference application over HTTP.")] = False
    broken: Annotated[Broken | None, typer.Option(help="Ask a service that is broken in this way.")] = None
    from_env: Annotated[
        str | None,
        typer.Option(metavar="TENANT", help="Ask the client that the environment configures, of this tenant."),
    ] = None
    questions: Annotated[
        Path | None, typer.Option(help='JSONL: {"question": "…", "fact": "what a right answer holds"}')
    ] = None
    question: Annotated[list[str] | None, typer.Option(help="A question; with --fact, in the same order.")] = None
    fact: Annotated[list[str] | None, typer.Option(help="What its right answer holds.")] = None
    timeout: Annotated[float, typer.Option(help="Seconds that a question has.")] = 30.0
    hung_after: Annotated[float, typer.Option(help="Seconds past that after which it is hung.")] = HUNG_AFTER

    def __post_init__(self) -> None:
        chosen = [name for name in ("url", "reference", "broken", "from_env") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"choose one of --{' and --'.join(name.replace('_', '-') for name in chosen)}")
        if self.login_body is not None and not self.login_body.startswith("@"):
            raise ValueError(
                "every process of this machine can read a command line: put the body into a file and write --login-body @file"
            )
        if len(self.fact or ()) > len(self.question or ()):
            raise ValueError("there are more --fact than --question")
        if (self.url or self.from_env) and not (self.questions or self.question):
            raise ValueError(
                "say what to ask, and what a right answer holds: --question … --fact …, or --questions file.jsonl"
            )

    def asked(self, usual: Sequence[Question]) -> Sequence[Question]:
        """The questions of the options, else the usual ones."""
        if self.questions is not None:
            try:
                return read_questions(self.questions)
            except OSError as error:
                raise ValueError(f"the questions can't be read: {error}") from None
        facts = [(fact,) for fact in self.fact or ()]
        given = self.question or []
        facts += [()] * (len(given) - len(facts))  # type: ignore[list-item]
        if any(not fact.strip() for fact in self.fact or ()):
            raise ValueError("an empty --fact is in every answer")
        return [Question(text, fact) for text, fact in zip(given, facts, strict=True)] or usual

    def http(self) -> HttpOptions:
        """How to ask over HTTP, secrets read from where they are."""
        headers = {}
        for pair in self.header_env or ():
            name, equals, variable = pair.partition("=")
            if not equals:
                raise ValueError(f"--header-env is NAME=VARIABLE, not {pair!r}")
            headers[name] = HttpOptions.secret(file=None, variable=variable) or ""
        login_body = "{}" if self.login_body is None else _from_file(self.login_body, "body of the login")
        assert self.url is not None
        return HttpOptions(
            url=self.url,
            body=_from_file(self.body, "body") if self.body.startswith("@") else self.body,
            headers=headers,
            accept="text/event-stream" if self.sse else "application/json",
            answer_path=self.answer_path,
            delta_path=self.delta_path,
            degraded_path=self.degraded_path,
            end_marker=not self.no_end_marker,
            login_url=self.login_url,
            login_body=login_body,
            token_path=self.token_path,
            token=HttpOptions.secret(file=self.token_file, variable=self.token_env),
            health_url=self.health_url,
            verify=not self.insecure,
        )


@dataclass(frozen=True, slots=True)
class Aim:
    """A target that is ready.

    Attributes:
        pid: of its process, where it is on this machine.
        shared: whether that is the driver's own.
        servers: those of the benchmarks' own.
    """

    target: Target
    questions: Sequence[Question]
    pid: int | None
    shared: bool = False
    servers: Elsewhere | None = None


@asynccontextmanager
async def aimed(options: TargetOptions) -> AsyncIterator[Aim]:
    """Start or find the target that the options choose. What one target needs is imported for it alone: a URL needs nothing but httpx.

    Raises:
        ValueError: the options are at fault.
        TargetError: the login failed.
    """
    if options.url is not None:
        async with http_target(options.http()) as target:
            yield Aim(target, options.asked([]), options.pid)
    elif options.broken is not None:
        from benchmarks.targets.broken import QUESTIONS, broken

        async with broken(options.broken) as (how, process), http_target(how) as target:
            yield Aim(target, options.asked(QUESTIONS), process.pid)
    elif options.reference:
        from benchmarks.targets.library import member_questions
        from benchmarks.targets.reference import reference

        async with reference() as (how, process, servers), http_target(how) as target:
            yield Aim(target, options.asked(member_questions()), process.pid, servers=servers)
    else:
        from benchmarks.targets.library import library, member_questions

        async with library(tenant=options.from_env) as (target, around):
            yield Aim(target, options.asked(member_questions()), os.getpid(), shared=True, servers=around)


def _from_file(given: str, what: str) -> str:
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the {what} can't be read: {error}") from None


def unchecked(questions: Sequence[Question]) -> list[str]:
    """A note where right and wrong can't be told apart."""
    without = sum(not question.facts for question in questions)
    return (
        [f"{without} of {len(questions)} questions have no fact: any answer but an apology counts as right"]
        if without
        else []
    )
