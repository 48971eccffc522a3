"""One job: turn a password into the bytes that PostgreSQL would derive keys from (SASLprep).

Follows RFC 4013 the way PostgreSQL does: ASCII is taken as it is, the checks look at the mapped
text before normalisation, and a password that the profile refuses is used raw instead of failing.
A difference here would be a password that works directly and fails through the proxy.
"""

from __future__ import annotations

import stringprep
import unicodedata


def password_bytes(password: str) -> bytes:
    """The bytes of `password` to derive keys from (RFC 4013). Never raises."""
    if password.isascii():
        return password.encode()
    prepared = _prepared(password)
    return _encoded(password if prepared is None else prepared)


def _encoded(text: str) -> bytes:
    try:
        # Bytes that were not UTF-8 travel through str as escaped surrogates.
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _prepared(password: str) -> str | None:
    """SASLprep of a text, or None where the profile prohibits it."""
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in password
        if stringprep.in_table_c12(char) or not stringprep.in_table_b1(char)
    )
    if not mapped or any(_prohibited(char) for char in mapped):
        return None
    if any(stringprep.in_table_d1(char) for char in mapped):
        # RFC 3454 section 6: right-to-left text is all so, and begins and ends so.
        if any(stringprep.in_table_d2(char) for char in mapped):
            return None
        if not (stringprep.in_table_d1(mapped[0]) and stringprep.in_table_d1(mapped[-1])):
            return None
    return unicodedata.normalize("NFKC", mapped)


def _prohibited(char: str) -> bool:
    return (
        stringprep.in_table_a1(char)
        or stringprep.in_table_c12(char)
        or stringprep.in_table_c21_c22(char)
        or stringprep.in_table_c3(char)
        or stringprep.in_table_c4(char)
        or stringprep.in_table_c5(char)
        or stringprep.in_table_c6(char)
        or stringprep.in_table_c7(char)
        or stringprep.in_table_c8(char)
        or stringprep.in_table_c9(char)
    )
