"""Reads e-mail: its header, its text and its attachments.

Source: RFC 5322 (messages), RFC 2045 to 2047 (MIME).
"""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import PurePath

from ragcore.errors import InvalidInput
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.encoding import clean, decode

__all__ = ["read_mail"]

HEAD = ("From", "To", "Cc", "Date")
MOST_ATTACHMENTS = 50
MOST_TITLE = 300
# Attachments that are ignored, such as pictures in signatures.
IGNORED = ("image/", "application/pgp-signature", "application/pkcs7-signature")


def read_mail(data: bytes) -> Parsed:
    """Read an e-mail (.eml): subject and addresses, the text, and each attachment of a known type under its own heading."""
    message = message_from_bytes(data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    subject = _header(message, "Subject")
    body = _body(message)
    warnings: list[str] = []
    parts = [
        f"# {subject}" if subject else "",
        "\n".join(f"{name}: {_header(message, name)}" for name in HEAD if message[name]),
        body,
    ]
    for attachment in list(message.iter_attachments())[:MOST_ATTACHMENTS]:
        name = str(attachment.get_filename() or "")
        text, warning = _attached(name, attachment)
        if text:
            parts.append(f"## Attachment {name}\n\n{text}")
        if warning:
            warnings.append(f"the attachment {name!r} was not read: {warning}")
    if len(parts) == 3 and not body.strip("\ufffd \n"):
        raise InvalidInput("it has no text")
    return Parsed("\n\n".join(filter(None, parts)) + "\n", title=subject[:MOST_TITLE], warnings=tuple(warnings))


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message[name] or "").split())
    except (ValueError, IndexError, AttributeError, LookupError):  # a header that the standard library can't parse
        return ""


def _body(message: EmailMessage) -> str:
    """Return the plain text of the message; if it has none, the text of its HTML part."""
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    raw = part.get_payload(decode=True)
    if not isinstance(raw, bytes):
        return ""
    charset = part.get_content_charset() or ""
    try:
        text = clean(raw.decode(charset)) if charset else decode(raw)[0]
    except (LookupError, UnicodeDecodeError):
        text = decode(raw)[0]
    if part.get_content_subtype() == "html":
        from ragcore.ingest.readers.html import html_to_markdown

        return html_to_markdown(text, whole=True)[0]
    return text.strip()


def _attached(name: str, attachment: EmailMessage) -> tuple[str, str]:
    """Return the text of an attachment and a warning if it could not be read; ("", "") for an attachment that is ignored."""
    from ragcore.ingest.readers import reader_of

    if attachment.get_content_type().startswith(IGNORED):
        return "", ""
    reader = reader_of(PurePath(name)) if name and not name.lower().endswith(".eml") else None
    raw = attachment.get_payload(decode=True)
    if reader is None or not isinstance(raw, bytes):
        return "", "there is no reader for its type"
    try:
        return reader(raw).text.replace("\f", "\n").strip(), ""
    except Exception as error:  # even if an attachment is broken or an extra is missing, the text of the mail is kept
        return "", str(error)[:200] or type(error).__name__
