"""The options of all scenarios: the service, its requests and answers, and the questions."""

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
    """All options except the URL: the questions, the form of a request and of its answer, and the timeouts."""

    body: Annotated[str, typer.Option(help='JSON body with "{question}" where the question goes, or @file.')] = (
        '{"message": "{question}"}'
    )
    sse: Annotated[bool, typer.Option(help="Request a stream of server-sent events.")] = False
    answer_path: Annotated[
        str | None, typer.Option(help="Path of the text in the answer, such as choices.0.message.content.")
    ] = None
    delta_path: Annotated[str | None, typer.Option(help="Path of the text in the data of an event.")] = None
    degraded_path: Annotated[str | None, typer.Option(help="Path of the value that marks an answer as degraded.")] = (
        None
    )
    no_end_marker: Annotated[
        bool, typer.Option(help="Accept streams that end without [DONE], an event done or a finish reason.")
    ] = False
    header_env: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VARIABLE: send header NAME with the value of this environment variable."),
    ] = None
    token_file: Annotated[Path | None, typer.Option(help="File with a bearer token.")] = None
    token_env: Annotated[str | None, typer.Option(help="Environment variable with a bearer token.")] = None
    login_url: Annotated[str | None, typer.Option(help="Get a bearer token from this URL first, by POST.")] = None
    login_body: Annotated[str | None, typer.Option(help="@file with the JSON body of the login request.")] = None
    token_path: Annotated[str, typer.Option(help="Path of the token in the login's answer.")] = TOKEN_PATH
    health_url: Annotated[str | None, typer.Option(help="Read this URL before and after the run, for the report.")] = (
        None
    )
    insecure: Annotated[bool, typer.Option(help="Don't verify TLS certificates.")] = False
    pid: Annotated[
        int | None, typer.Option(help="Process id of the service on this machine, to measure memory and CPU.")
    ] = None
    questions: Annotated[
        Path | None, typer.Option(help='JSONL file: {"question": "…", "fact": "words of a right answer"}')
    ] = None
    question: Annotated[list[str] | None, typer.Option(help="A question; may be repeated.")] = None
    fact: Annotated[
        list[str] | None,
        typer.Option(help="Words that the right answer contains. Repeat it in the order of --question."),
    ] = None
    timeout: Annotated[float, typer.Option(help="Seconds in which each question must be answered.")] = 30.0
    hung_after: Annotated[float, typer.Option(help="Seconds after the timeout until a question counts as hung.")] = (
        HUNG_AFTER
    )

    def __post_init__(self) -> None:
        if self.login_body is not None and not self.login_body.startswith("@"):
            raise InvalidInput(
                "--login-body must be @file: every process of this machine can read the command line, so write the body to a file"
            )
        if len(self.fact or ()) > len(self.question or ()):
            raise InvalidInput("more --fact than --question: remove a --fact, or add its --question")

    def require_questions(self) -> None:
        """Check that there are questions to ask.

        Raises:
            InvalidInput: neither --questions nor --question is given.
        """
        if not (self.questions or self.question):
            raise InvalidInput(
                "no questions: pass --question … with --fact … for its right answer, or --questions file.jsonl"
            )

    def asked(self, usual: Sequence[Question] = ()) -> Sequence[Question]:
        """Return the questions of the options; if there are none, `usual`.

        Raises:
            InvalidInput: the file can't be read, a line of it is not a question, or a fact is empty.
        """
        if self.questions is not None:
            try:
                return read_questions(self.questions)
            except OSError as error:
                raise InvalidInput(f"cannot read the questions: {error}") from None
        if any(not fact.strip() for fact in self.fact or ()):
            raise InvalidInput("--fact is empty, so every answer would be right: set it to words of the right answer")
        given = self.question or []
        facts: list[tuple[str, ...]] = [(fact,) for fact in self.fact or ()]
        facts += [()] * (len(given) - len(facts))
        return [Question(text, fact) for text, fact in zip(given, facts, strict=True)] or usual

    def http(self, url: str) -> HttpOptions:
        """Return the options for HTTP, with secrets read from their files and variables.

        Raises:
            InvalidInput: a file or a variable is missing, or a value is malformed.
        """
        headers = {}
        for pair in self.header_env or ():
            name, equals, variable = pair.partition("=")
            if not equals:
                raise InvalidInput(f"--header-env must be NAME=VARIABLE, not {pair!r}")
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
        """Log in to the service at this URL and yield it as an aim.

        Raises:
            InvalidInput: an option is wrong.
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
    """A running service, with its URL."""

    url: Annotated[str, typer.Option(help="URL of the service; questions are sent by POST.")]

    def __post_init__(self) -> None:
        # `slots=True` replaces this class with a new one. `super()` without arguments would refer to the old class and fail.
        AskingOptions.__post_init__(self)
        self.require_questions()


def _from_file(given: str, what: str) -> str:
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot read the {what}: {error}") from None
