"""The parameters that a model accepts, learned from refusals.

A model's name does not show its parameters: the name may be a gateway's alias or an Azure deployment. If the server refuses a parameter by name, the
parameter is omitted or renamed from then on.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ragcore.errors import ConfigurationError
from ragcore.events import emit
from ragcore.wire.refusal import ServerError

__all__ = ["MOST_CHANGES", "REFUSES", "Dialect", "check_parameters", "with_role"]

logger: logging.Logger = logging.getLogger("ragcore")

# After this many refusals of one request, give up.
MOST_CHANGES = 8
REFUSES = (400, 404, 422, 500, 501)
# Parameters whose names also occur in messages about other problems.
TOO_COMMON = frozenset({"model", "messages", "input", "stream"})
# Messages of servers may name a parameter differently. These patterns match such names.
ALSO = {
    "dimensions": ("output_dimensions?", "dimension", "matryoshka"),
    "encoding_format": ("encoding formats?", "base64"),
    "response_format": ("json_schema", "structured outputs?", "guided_json", "json mode"),
}
# Matches messages about a parameter that the model does not have. `VALUE` matches messages about a value that it does not accept.
UNSUPPORTED = re.compile(
    r"unsupported|not support|n't support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra (input|field)|cannot find field"
    r"|not a valid (field|parameter)|only the default|deprecated|no longer|not available|not implemented|not accept|n't accept",
    re.IGNORECASE,
)
VALUE = re.compile(
    r"invalid|must be|should be|too (large|long|high|big|small)|at (most|least)|exceed|between|out of range|refused|greater|less",
    re.IGNORECASE,
)
UNSUPPORTED_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden"})
VALUE_CODES = re.compile(r"invalid_value|above_max|below_min|too_long|too_large|out_of_range", re.IGNORECASE)
SYSTEM = re.compile(
    r"\b(system|developer)\b[^.]{0,20}\b(role|message|prompt|instruction)s?|\b(role|roles)\b[^.]{0,60}\b(system|developer)\b"
    r"|'(system|developer)'|must alternate",
    re.IGNORECASE,
)


class Dialect:
    """The parameters that one model on one server accepts, with their names and values.

    Args:
        model: the model's name, for events.
        renames: the alternative name of each parameter that has one.
    """

    def __init__(self, model: str, *, renames: Mapping[str, str] | None = None) -> None:
        self._model = model
        self._renames = dict(renames or {})
        self._called: dict[str, str] = {}
        self._left_out: set[str] = set()
        self._given: dict[str, Sequence[Any]] = {}
        self.system_role: str | None = "system"

    def adapt(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters as this model accepts them."""
        adapted: dict[str, Any] = {}
        for name, value in parameters.items():
            called = self._called.get(name, name)
            if called in self._left_out:
                continue
            adapted[called] = self._given[name][0] if name in self._given else value
        return adapted

    def call(self, name: str, called: str) -> None:
        """Send a parameter under another name."""
        self._called[name] = called

    def leave_out(self, name: str) -> None:
        """Omit a parameter."""
        self._left_out.add(name)

    def try_values(self, name: str, values: Sequence[Any]) -> None:
        """Set the values to try for a parameter, one after the other. If all of them are refused, the parameter is omitted."""
        self._given[name] = values

    def refuse(self, name: str, sent: object) -> None:
        """Record that the server refused a parameter: try its next value, its other name, or omit it.

        Args:
            name: the name under which it was sent.
            sent: the value that was sent.
        """
        self._change(name, sent)

    def learn(
        self,
        error: ServerError,
        sent: Mapping[str, Any],
        *,
        role: str | None = None,
        callers: Collection[str] = (),
    ) -> bool:
        """Adapt to a refusal that names a parameter. Return whether another request makes sense.

        If the server refuses a value that the caller chose, and not the parameter, nothing is learned, because one caller's mistake must not change the
        requests of other callers.

        Args:
            callers: parameters whose values come from the caller, under the names that were sent.
            sent: the parameters of the refused request, under the names that were sent.
            role: the role of the system message; None if there was no such message.
        """
        if error.status not in REFUSES or error.is_too_long:
            return False
        if role is not None and self._names_the_role(error):
            self._change_role(role, error)
            return True
        name = self._refused(error, sent)
        if name is None or (name in callers and not _is_unsupported(error)):
            return False
        self._change(name, sent[name])
        return True

    def _refused(self, error: ServerError, sent: Mapping[str, Any]) -> str | None:
        names = [name for name in sent if name not in TOO_COMMON]
        root = re.split(r"[.\[]", error.parameter)[0]
        if root in names:
            return root
        if not (UNSUPPORTED.search(f"{error.whole} {error.code}") or VALUE.search(error.whole)):
            return None
        # Use the first name in the message, because a later one is often the suggested replacement.
        found = [
            (match.start(), name)
            for name in names
            if (
                match := re.search(
                    rf"(?<![\w.])(?:{'|'.join((re.escape(name), *ALSO.get(name, ())))})(?!\w)", error.whole
                )
            )
        ]
        return min(found)[1] if found else None

    def _change(self, name: str, sent: object) -> None:
        """Change the refused parameter `name`: try another value, another name, or omit it. Several requests may report the same refusal at once."""
        asked = next((own for own, called in self._called.items() if called == name), name)
        values = self._given.get(asked)
        instead: object = None
        if values is not None and values[0] != sent:
            return
        if values is not None and len(values) > 1:
            self._given[asked] = values[1:]
            instead = values[1]
        elif name in self._left_out or self._called.get(name, name) != name:
            return  # another request has reported the same refusal
        elif asked == name and name in self._renames:
            instead = self._called[name] = self._renames[name]
        else:
            self._left_out.add(name)
        emit("model.parameter_refused", self._model, parameter=name, instead=instead)
        logger.info(
            "parameter refused: %s does not accept %s; from now on: %s", self._model, name, instead or "omitted"
        )

    @staticmethod
    def _names_the_role(error: ServerError) -> bool:
        return SYSTEM.search(error.whole) is not None and (
            error.parameter in ("", "messages") or error.parameter.startswith("messages[")
        )

    def _change_role(self, sent: str, error: ServerError) -> None:
        """Use the role "developer" if the server suggests it; otherwise prepend the system text to the question."""
        if self.system_role != sent:
            return
        self.system_role = "developer" if sent == "system" and "developer" in error.whole.lower() else None
        emit("model.parameter_refused", self._model, parameter=f"role {sent}", instead=self.system_role or "user")


def _is_unsupported(error: ServerError) -> bool:
    """Return whether the refusal is about the parameter itself, not about its value."""
    code = error.code.lower()
    if code in UNSUPPORTED_CODES:
        return True
    return not VALUE_CODES.search(code) and UNSUPPORTED.search(error.whole) is not None


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


def check_parameters(given: Mapping[str, Any] | None, name: str, *, own: AbstractSet[str]) -> dict[str, Any]:
    """Return the user's parameters for requests, checked.

    Args:
        name: the name of the option, for errors.
        own: the names that ragcore sets itself.

    Raises:
        ConfigurationError: a name is in `own`, or a value can't be written as JSON.
    """
    wrong = sorted(own & (given or {}).keys())
    if wrong:
        raise ConfigurationError(f"{name} contains {', '.join(wrong)}, which ragcore sets itself: remove it")
    try:
        json.dumps(dict(given or {}))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} can't be written as JSON: {error}") from None
    return dict(given or {})
