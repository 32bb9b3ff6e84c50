"""The second net under secrets: what looks like one is hidden from a text, wherever the text came from.

The first is that no secret gets into a text at all: passwords and tokens travel as `Secret`.
"""

import re
from typing import Final

MASK: Final = "***"

_NAMES: Final = r"passw(?:or)?d|pwd|secret|tokens?|api[_-]?key|private[_-]?key|authorization|cookie"
_names_a_secret = re.compile(_NAMES, re.IGNORECASE).search
_SECRETS: Final = re.compile(
    rf"""
    (?P<scheme> \b(?:bearer|basic)\s+ ) [\w.~+/=-]{{8,}}
    | (?P<user> ://[^\s:/@]*: ) [^\s/@]+ (?=@)
    | (?P<name> (?:{_NAMES}) (?:[_-][a-z_]{{1,32}})? (?:\\?["'])? \s* [=:] \s* [\[({{]* (?:b(?=["']))? )
      (?: (?P<quote> \\?["'] ) (?: \\. | [^\\\n] )*? (?: (?P=quote) | $ )
        | (?!\\?["']) (?: (?:bearer|basic)\s+ )? [^\s,;&)}}\]]+ )
    | (?-i: \beyJ[\w-]{{4,}}\.[\w-]{{4,}} (?:\.[\w-]*)? )                     # a JWT
    | \$2[abxy]\$\d\d\$[./a-z0-9]{{22,}}                                      # a hash of bcrypt
    | (?-i: (?<![\w-]) (?=[\w-]*[A-Z]) (?=[\w-]*[a-z]) (?=[\w-]*[0-9]) [\w-]{{43}} (?![\w-]) )  # an account's token
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


def masked(text: str) -> str:
    """Return a text without what looks like a password, a bearer token, a JWT or a hash."""
    return _SECRETS.sub(_mask, text)


def names_a_secret(name: str) -> bool:
    """Whether what stands under this name is to be hidden whatever it looks like."""
    return _names_a_secret(name) is not None


def _mask(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{found['scheme'] or found['user'] or found['name'] or ''}{quote}{MASK}{quote}"
