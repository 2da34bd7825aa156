"""Reads a PDF's annotations: form fields, and text that was typed over a page. They are not part of the page's own text."""

from __future__ import annotations

import ctypes
from typing import Any

from ragcore.ingest.readers.pdf.page import cleaned

__all__ = ["annotations_of"]


def annotations_of(pdfium: Any, document: Any, number: int) -> list[str]:
    """Return the filled-in form fields of a page as "name: value", and the texts typed over it."""
    raw = pdfium.raw
    form = getattr(document, "formenv", None)
    found = []
    page = document[number]
    try:
        for index in range(raw.FPDFPage_GetAnnotCount(page)):
            annotation = raw.FPDFPage_GetAnnot(page, index)
            if not annotation:
                continue
            try:
                kind = raw.FPDFAnnot_GetSubtype(annotation)
                if kind == raw.FPDF_ANNOT_WIDGET and form is not None:
                    name = _string(raw.FPDFAnnot_GetFormFieldName, form, annotation)
                    value = _string(raw.FPDFAnnot_GetFormFieldValue, form, annotation)
                    if value and value != "Off":
                        found.append(f"{name}: {value}" if name else value)
                elif kind == raw.FPDF_ANNOT_FREETEXT:
                    found.append(_string(raw.FPDFAnnot_GetStringValue, annotation, b"Contents"))
            finally:
                raw.FPDFPage_CloseAnnot(annotation)
    finally:
        page.close()
    return [text for text in dict.fromkeys(found) if text]


def _string(function: Any, *arguments: Any) -> str:
    length = function(*arguments, None, 0)
    if length <= 2:
        return ""
    buffer = (ctypes.c_ushort * (length // 2))()
    function(*arguments, buffer, length)
    text = bytes(buffer).decode("utf-16-le", "replace").rstrip("\0")
    return " ".join(cleaned(text).split())
