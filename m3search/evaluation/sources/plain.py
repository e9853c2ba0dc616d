"""One character for each of its typographic forms, as ChemDataExtractor and DPR have it."""

from __future__ import annotations

_FORMS = {
    "": "\u00ad" + "".join(map(chr, (*range(0x01, 0x09), 0x0E, 0x0F, *range(0x11, 0x1C)))),
    " ": "\u000b\u000c\u0085",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u207b\u2212\uff0d",
    '"': "\u201c\u201d\u201e\u201f",
    "'": "`\u00b4\u055a\u2018\u2019\u201a\u201b\u2032\u2035\ua78b\ua78c\uff07",
    "''": "\u2033\u2036",
    "'''": "\u2034\u2037",
    "''''": "\u2057",
    "...": "\u2026",
    "/": "\u2044\u2215",
}
_TABLE = str.maketrans({each: form for form, given in _FORMS.items() for each in given})


def plain(text: str) -> str:
    """The text with plain hyphens, quotes, slashes and dots, and without control characters.

    >>> plain("O\u2019Brien \u2013 the \u201cco\u00adop\u201d\u2026")
    'O\\'Brien - the "coop"...'
    """
    return text.translate(_TABLE).replace(" . . . ", " ... ")
