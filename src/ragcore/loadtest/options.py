"""How a service is asked: the options that every scenario has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import typer

from ragcore.errors import InvalidInput
from ragcore.loadtest.http import TOKEN_PATH, HttpOptions, http_target
from ragcore.loadtest.target import HUNG_AFTER, Aim, Question, read_questions

__all__ = ["AskingOptions", "ServiceOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingOptions:
    """What is asked, how a request and its answer look, and how long to wait; all but the address."""

    body: Annotated[str, typer.Option(help='JSON to send, with "{question}" where the question goes; or @file.')] = (
        '{"message": "{question}"}'
    )
    sse: Annotated[bool, typer.Option(help="Ask for a stream of server-sent events.")] = False
    answer_path: Annotated[
        str | None, typer.Option(help="Where the text is in the answer: choices.0.message.content")
    ] = None
    delta_path: Annotated[str | None, typer.Option(help="Where a piece is in the data of an event.")] = None
    degraded_path: Annotated[str | None, typer.Option(help="Where the service says that an answer is degraded.")] = None
    no_end_marker: Annotated[
        bool, typer.Option(help="Accept streams without [DONE], an event done or a finish reason.")
    ] = False
    header_env: Annotated[
        list[str] | None, typer.Option(help="NAME=VARIABLE: a header whose value an environment variable holds.")
    ] = None
    token_file: Annotated[Path | None, typer.Option(help="File that holds a bearer token.")] = None
    token_env: Annotated[str | None, typer.Option(help="Environment variable that holds a bearer token.")] = None
    login_url: Annotated[str | None, typer.Option(help="Get a bearer token here first, by POST.")] = None
    login_body: Annotated[str | None, typer.Option(help="@file: JSON to send to the login.")] = None
    token_path: Annotated[str, typer.Option(help="Where the token is in the login's answer.")] = TOKEN_PATH
    health_url: Annotated[str | None, typer.Option(help="Read before and after, for the report.")] = None
    insecure: Annotated[bool, typer.Option(help="Don't check certificates.")] = False
    pid: Annotated[int | None, typer.Option(help="The service's process on this machine, for its memory and CPU.")] = (
        None
    )
    questions: Annotated[
        Path | None, typer.Option(help='JSONL: {"question": "…", "fact": "what a right answer holds"}')
    ] = None
    question: Annotated[list[str] | None, typer.Option(help="A question; with --fact, in the same order.")] = None
    fact: Annotated[list[str] | None, typer.Option(help="What its right answer holds.")] = None
    timeout: Annotated[float, typer.Option(help="Seconds that a question has.")] = 30.0
    hung_after: Annotated[float, typer.Option(help="Seconds past that after which it is hung.")] = HUNG_AFTER

    def __post_init__(self) -> None:
        if self.login_body is not None and not self.login_body.startswith("@"):
            raise InvalidInput(
                "every process of this machine can read a command line: put the body into a file and write --login-body @file"
            )
        if len(self.fact or ()) > len(self.question or ()):
            raise InvalidInput("there are more --fact than --question")

    def require_questions(self) -> None:
        """Refuse a service of which nobody said what to ask.

        Raises:
            InvalidInput: neither --questions nor --question is given.
        """
        if not (self.questions or self.question):
            raise InvalidInput(
                "say what to ask, and what a right answer holds: --question … --fact …, or --questions file.jsonl"
            )

    def asked(self, usual: Sequence[Question] = ()) -> Sequence[Question]:
        """The questions of the options, else the usual ones.

        Raises:
            InvalidInput: the file can't be read, a line of it is no question, or a fact is empty.
        """
        if self.questions is not None:
            try:
                return read_questions(self.questions)
            except OSError as error:
                raise InvalidInput(f"the questions can't be read: {error}") from None
        if any(not fact.strip() for fact in self.fact or ()):
            raise InvalidInput("an empty --fact is in every answer")
        given = self.question or []
        facts: list[tuple[str, ...]] = [(fact,) for fact in self.fact or ()]
        facts += [()] * (len(given) - len(facts))
        return [Question(text, fact) for text, fact in zip(given, facts, strict=True)] or usual

    def http(self, url: str) -> HttpOptions:
        """How to ask over HTTP, secrets read from where they are.

        Raises:
            InvalidInput: a file or a variable is missing, or a value is malformed.
        """
        headers = {}
        for pair in self.header_env or ():
            name, equals, variable = pair.partition("=")
            if not equals:
                raise InvalidInput(f"--header-env is NAME=VARIABLE, not {pair!r}")
            headers[name] = HttpOptions.secret(file=None, variable=variable) or ""
        login_body = "{}" if self.login_body is None else _from_file(self.login_body, "body of the login")
        return HttpOptions(
            url=url,
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

    @asynccontextmanager
    async def service(self, url: str) -> AsyncIterator[Aim]:
        """A running service at this address, logged in, for the block.

        Raises:
            InvalidInput: an option is at fault.
            TargetError: the login failed.
        """
        how = await anyio.to_thread.run_sync(self.http, url)
        questions = await anyio.to_thread.run_sync(self.asked)
        async with http_target(how) as target:
            yield Aim(
                target,
                questions,
                pid=self.pid,
                memory_required=self.pid is not None,
                timeout=self.timeout,
                hung_after=self.hung_after,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions(AskingOptions):
    """A running service, by its address."""

    url: Annotated[str, typer.Option(help="The service: questions go here by POST.")]

    def __post_init__(self) -> None:
        # A dataclass with slots is a class of its own: super() without arguments looks in the one before it.
        AskingOptions.__post_init__(self)
        self.require_questions()


def _from_file(given: str, what: str) -> str:
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"the {what} can't be read: {error}") from None
