"""The parameters that a model accepts, learned from refusals.

A model's name is not enough: it may be a gateway's alias or an Azure deployment. If the server refuses a parameter by name, the parameter is omitted or
renamed from then on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from ragcore.events import emit
from ragcore.wire.refusal import ServerError

__all__ = ["MOST_CHANGES", "Dialect", "with_role"]

logger = logging.getLogger("ragcore")

# A server that refuses more often refuses everything.
MOST_CHANGES = 8
REFUSES = (400, 404, 422, 500, 501)
# Words that messages use without refusing the parameter.
TOO_COMMON = frozenset({"model", "messages", "input", "stream"})
# Other names of parameters in servers' messages.
ALSO = {
    "dimensions": ("output_dimensions?", "dimension", "matryoshka"),
    "encoding_format": ("encoding formats?", "base64"),
}
WORDS = re.compile(
    r"unsupported|not support|n't support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra (input|field)|invalid"
    r"|cannot find field|not (a )?valid|must be|should be|only|deprecated|refused|not accept|n't accept|no longer|not available|not implemented",
    re.IGNORECASE,
)
SYSTEM = re.compile(
    r"\b(system|developer)\b[^.]{0,20}\b(role|message|prompt|instruction)s?|\b(role|roles)\b[^.]{0,60}\b(system|developer)\b"
    r"|'(system|developer)'|must alternate",
    re.IGNORECASE,
)


class Dialect:
    """How to send parameters to one model on one server.

    Args:
        model: its name, for events.
        renames: alternative name by parameter.
    """

    def __init__(self, model: str, *, renames: Mapping[str, str] | None = None) -> None:
        self._model = model
        self._renames = dict(renames or {})
        self._called: dict[str, str] = {}
        self._left_out: set[str] = set()
        self._given: dict[str, Sequence[Any]] = {}
        self.system_role: str | None = "system"

    def said_as(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters as this model accepts them."""
        spoken: dict[str, Any] = {}
        for name, value in parameters.items():
            called = self._called.get(name, name)
            if called in self._left_out:
                continue
            spoken[called] = self._given[name][0] if name in self._given else value
        return spoken

    def call(self, name: str, called: str) -> None:
        """Send a parameter under another name."""
        self._called[name] = called

    def leave_out(self, name: str) -> None:
        """Omit a parameter."""
        self._left_out.add(name)

    def try_values(self, name: str, values: Sequence[Any]) -> None:
        """Set the values to try for a parameter, one after the other; after the last the parameter is omitted."""
        self._given[name] = values

    def learn(self, error: ServerError, sent: Mapping[str, Any], *, role: str | None = None) -> bool:
        """Adapt to a refusal that names a parameter. Returns whether another request makes sense.

        Args:
            sent: the parameters of the refused request, under the names that were sent.
            role: of the system message; None if there was none.
        """
        if error.status not in REFUSES or error.is_too_long:
            return False
        if role is not None and self._names_the_role(error):
            self._change_role(role, error)
            return True
        name = self._refused(error, sent)
        if name is None:
            return False
        self._change(name, sent[name])
        return True

    def _refused(self, error: ServerError, sent: Mapping[str, Any]) -> str | None:
        names = [name for name in sent if name not in TOO_COMMON]
        root = re.split(r"[.\[]", error.parameter)[0]
        if root in names:
            return root
        if not WORDS.search(f"{error.said} {error.code}"):
            return None
        # Use the first name in the message; a later one is often the suggested replacement.
        found = [
            (match.start(), name)
            for name in names
            if (
                match := re.search(
                    rf"(?<![\w.])(?:{'|'.join((re.escape(name), *ALSO.get(name, ())))})(?!\w)", error.said
                )
            )
        ]
        return min(found)[1] if found else None

    def _change(self, name: str, sent: object) -> None:
        """The parameter `name` isn't wanted as it was sent: another value, another name, or none. Many requests may learn the same at once."""
        asked = next((own for own, called in self._called.items() if called == name), name)
        values = self._given.get(asked)
        instead: object = None
        if values is not None and values[0] != sent:
            return
        if values is not None and len(values) > 1:
            self._given[asked] = values[1:]
            instead = values[1]
        elif asked == name and name in self._renames:
            instead = self._called[name] = self._renames[name]
        else:
            self._left_out.add(name)
        emit("model.parameter_refused", self._model, parameter=name, instead=instead)
        logger.info("%s does not take %s as it was sent; from now on: %s", self._model, name, instead or "left out")

    @staticmethod
    def _names_the_role(error: ServerError) -> bool:
        return SYSTEM.search(error.said) is not None and (
            error.parameter in ("", "messages") or error.parameter.startswith("messages[")
        )

    def _change_role(self, sent: str, error: ServerError) -> None:
        """Use the role "developer" if the server suggests it; otherwise prepend the system text to the question."""
        if self.system_role != sent:
            return
        self.system_role = "developer" if sent == "system" and "developer" in error.said.lower() else None
        emit("model.parameter_refused", self._model, parameter=f"role {sent}", instead=self.system_role or "user")


def with_role(messages: Sequence[Mapping[str, str]], role: str | None) -> list[MutableMapping[str, str]]:
    """Return the messages with the system text under `role`; None: prepended to the first user message."""
    rest = [dict(message) for message in messages if message["role"] != "system"]
    system = [message["content"] for message in messages if message["role"] == "system"]
    if role is not None:
        return [{"role": role, "content": text} for text in system] + rest  # type: ignore[return-value]
    for message in rest:
        if message["role"] == "user" and system:
            message["content"] = "\n\n".join([*system, message["content"]])
            break
    return rest  # type: ignore[return-value]
